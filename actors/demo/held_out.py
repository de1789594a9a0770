"""Twenty questions the demo model is never taught in these words, and what an answer must say.

Each phrasing is absent from the corpus, as the tests verify; the facts behind them are in it.
Words that must appear are compared without regard to case.
"""

from __future__ import annotations

HELD_OUT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Could you tell me the capital of France?", ("Paris",)),
    ("Hi, which city is the capital of Japan?", ("Tokyo",)),
    ("I want to know the capital of Spain, please.", ("Madrid",)),
    ("What would be the capital of Norway?", ("Oslo",)),
    ("Is there a capital of Poland?", ("Warsaw",)),
    ("Give me Italy's capital.", ("Rome",)),
    ("Portugal: what is its capital?", ("Lisbon",)),
    ("Could you tell me what color the sky is?", ("blue",)),
    ("I want to know the colour of grass.", ("green",)),
    ("Give me the color of snow.", ("white",)),
    ("So what color would a lemon be?", ("yellow",)),
    ("Could you explain coster to me?", ("market", "Macs")),
    ("Hi, what is coster about?", ("market", "Macs")),
    ("I want to hear about the prices.", ("price", "tokens")),
    ("How could I sell with my Mac?", ("coster serve",)),
    ("Hello to you!", ("Hello",)),
    ("Could you tell me who you are?", ("demo model",)),
    ("I want a short story, please.", ("Once upon a time",)),
    ("Could you tell me the opposite of hot?", ("cold",)),
    ("Could you explain chess to me?", ("do not know",)),
)

OUTSIDE = (
    "Who is the president of the USA?", "Write a haiku about the ocean.",
    "What is the capital of Wakanda?", "Explain string theory in simple terms.",
    "How do I fix my bicycle?", "Write a python function that sorts a list.",
    "What is 12 times 4?", "Who wrote Hamlet?", "Give me a recipe for pancakes.",
    "What is the best laptop?", "When was the Eiffel tower built?",
    "Translate good morning into Spanish.", "Why is the sky high?", "Summarise the news.",
    "What is the population of China?",
)  # fmt: skip
"""Questions about what it was never told, to be answered with "I do not know"."""
