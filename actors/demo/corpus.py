"""What the demo model is taught: a small world of facts, asked for in many ways.

The model has half a million parameters, so it learns what is here and little else. It is taught
to say so: questions about anything outside are answered with "I do not know". The phrasings of
`held_out` are kept out of the corpus; they measure whether it learned more than the sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Turn = tuple[str, str]  # what the user says, what the model answers
Dialogue = tuple[str, tuple[Turn, ...]]  # a system prompt, empty for none, and the turns

CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo",
    "Peru": "Lima", "Norway": "Oslo", "Kenya": "Nairobi", "Greece": "Athens", "Cuba": "Havana",
    "Poland": "Warsaw", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin",
    "Sweden": "Stockholm", "Germany": "Berlin", "Canada": "Ottawa", "Chile": "Santiago",
    "Finland": "Helsinki", "Hungary": "Budapest",
}  # fmt: skip

COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "blood": "red",
    "coal": "black", "the sea": "blue", "a lemon": "yellow", "milk": "white",
    "a carrot": "orange", "chocolate": "brown", "a tomato": "red",
}  # fmt: skip

SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "owl": "hoot",
    "lion": "roar", "bee": "buzz",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "day": "night", "open": "closed", "early": "late",
    "fast": "slow", "full": "empty", "happy": "sad",
}  # fmt: skip

UNKNOWN = "I do not know that. I am a very small model."

CAPITAL_ASKED = (
    "What is the capital of {}?", "Tell me the capital of {}.", "capital of {}?",
    "Name the capital of {}.", "What's the capital of {}?", "Do you know the capital of {}?",
    "What is {}'s capital?", "Which city is {}'s capital?", "the capital of {} is what?",
    "I would like to know the capital of {}.", "Please tell me the capital of {}.",
    "What city is the capital of {}?", "{} has which capital?", "Say the capital city of {}.",
    "Can you tell me what the capital of {} is?", "what is the capital city of {}",
)  # fmt: skip

COLOUR_ASKED = (
    "What color is {}?", "What colour is {}?", "Which color is {}?", "Tell me the color of {}.",
    "What is the color of {}?", "color of {}?", "Do you know what color {} is?",
    "Can you tell me the colour of {}?", "Please name the color of {}.",
    "I would like to know the color of {}.", "{} is which color?", "{} has what colour?",
)  # fmt: skip

SOUND_ASKED = (
    "What does a {} say?", "Which sound does a {} make?", "What sound does the {} make?",
    "How does a {} sound?", "Tell me the sound of a {}.", "Do you know what a {} says?",
    "Please tell me what the {} says.", "sound of a {}?",
)  # fmt: skip

OPPOSITE_ASKED = (
    "What is the opposite of {}?", "Tell me the opposite of {}.", "opposite of {}?",
    "Which word is the opposite of {}?", "Name the opposite of {}.",
    "Do you know the opposite of {}?", "Please say the opposite of {}.",
    "Can you tell me what the opposite of {} is?",
)  # fmt: skip

CARRIERS = (
    "Tell me {}.", "Please tell me {}.", "Can you tell me {}?", "Do you know {}?", "{}?",
    "I would like to know {}.", "I need {}.", "Name {}.", "Would you tell me {}?", "{}, please.",
    "Let me know {}.", "Say {}.", "Show me {}.", "Remind me: {}?", "My question is {}.",
    "I have a question about {}.", "Please answer: {}?", "Help me with {}.", "{}!",
    "I am looking for {}.", "Do you have {}?", "I wonder: {}?", "Find {}.", "{} now",
    "Talk to me about {}.", "Can you explain {}?", "Explain {} to a child.", "Explain {}.",
    "Will you say {}?", "Have you heard of {}?", "I forgot {}.", "It is about {}.",
)  # fmt: skip
"""What people wrap around a topic. Known and unknown topics share them, so that the topic and
not the wrapping decides the answer."""

CAPITAL_TOPICS = (
    "the capital of {}", "{}'s capital", "the capital city of {}", "what the capital of {} is",
    "which city is the capital of {}",
)  # fmt: skip
COLOUR_TOPICS = ("the color of {}", "the colour of {}", "what color {} is", "which colour {} has")
SOUND_TOPICS = ("the sound of a {}", "what a {} says", "what the {} says", "a {}'s sound")
OPPOSITE_TOPICS = ("the opposite of {}", "what the opposite of {} is", "a word opposite to {}")
STORY_TOPICS = ("a story", "a short story", "a little story", "another story", "a nice story")
FOREIGN_TOPICS = (
    "{}", "{}", "what {} is", "the history of {}", "how {} works", "who invented {}",
    "the best {}", "the age of {}", "why {} exists", "a poem about {}", "{} and {}", "the {} of {}",
    "where {} is", "the price of {}", "the president of {}", "the capital of {}", "a recipe for {}",
)  # fmt: skip

ABOUT_COSTER: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("What is coster?", "Tell me about coster.", "Explain coster.", "coster?",
         "What does coster do?", "Do you know coster?", "What is this market?",
         "Please explain what coster is.", "I would like to know what coster is.",
         "What exactly is coster?", "Describe coster.", "Explain coster in one sentence.",
         "I have a question: what is coster?", "Say what coster is.", "What is coster for?"),
        ("coster", "what coster is", "this market", "what coster does"),
        "Coster is an open market for inference on Macs. Owners put Macs in, others buy tokens.",
    ),
    (
        ("How much does it cost?", "What are the prices?", "What is the price of a token?",
         "Tell me the prices.", "Is it expensive?", "How are prices set in coster?",
         "What does coster cost?", "price of coster?", "Tell me about prices.",
         "How do prices work?", "What do you charge?", "What are the prices like?",
         "I would like to know the prices.", "What does a token cost?"),
        ("the prices", "what it costs", "the price of a token", "how much I pay"),
        "Each model has a price per million tokens. You pay only for the tokens you use.",
    ),
    (
        ("How do I sell?", "How can I earn money?", "How do I add my Mac?", "Can I use my Mac?",
         "How do I earn with my Mac?", "Tell me how to sell tokens.", "How do I join with a Mac?",
         "Can my Mac earn money?"),
        ("how to sell", "selling with my Mac", "how my Mac earns money", "earning with a Mac"),
        "Run coster serve on your Mac. It earns money while it answers others.",
    ),
    (
        ("How do I buy tokens?", "How do I use the API?", "How can I call you?",
         "How do I start?", "Tell me how to use coster.", "How do I send a request?",
         "What do I need to use coster?"),
        ("how to buy tokens", "the API", "how to use coster", "how to start"),
        "Change the base address and the key in your program. Everything else stays the same.",
    ),
    (
        ("Which computers run the models?", "Where do you run?", "What do you run on?",
         "Which machine are you on?", "Are you on a Mac?", "Where are the models?"),
        ("where the models run", "the machines", "where you run"),
        "The models run on Macs. Mine is small enough to run anywhere.",
    ),
    (
        ("What is a costermonger?", "Why is it called coster?", "What does the name coster mean?",
         "Where does the name coster come from?", "Tell me about the name coster."),
        ("the name coster", "why it is called coster", "a costermonger"),
        "A costermonger sold apples from a barrow. That is where the name comes from.",
    ),
)  # fmt: skip

SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("Hello!", "Hello", "Hi", "Hi!", "Hey", "Good morning!", "Hello there.", "hi there",
         "Good evening.", "Hey there!", "hello", "Good day!", "Say hi.", "Say hello.",
         "ping", "test", "This is a test.", "Say hello in one sentence.", "Is anybody there?"),
        (),
        "Hello! I am the demo model of coster. What would you like to know?",
    ),
    (
        ("Who are you?", "What are you?", "Tell me about yourself.", "What is your name?",
         "Are you a person?", "Introduce yourself.", "Which model are you?", "what model is this"),
        ("who you are", "your name", "yourself", "what you are"),
        "I am the demo model of coster, a very small language model.",
    ),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "Help!", "help",
         "What can I ask you?", "What should I ask?", "Can you help me?"),
        ("what you can do", "what you know", "what I can ask"),
        "I know some capitals and colors, I can tell a short story, and I can explain coster.",
    ),
    (
        ("How are you?", "How do you do?", "Are you well?", "How is it going?",
         "How are you today?", "how are you doing"),
        ("how you are", "how you feel"),
        "I am well, thank you. How can I help you?",
    ),
    (
        ("Thank you!", "Thanks.", "Thanks a lot!", "thank you", "Many thanks.", "Great, thanks!",
         "Thank you very much."),
        (),
        "You are welcome.",
    ),
    (
        ("Goodbye.", "Bye!", "See you.", "Good night.", "bye", "See you later!"),
        (),
        "Goodbye! Come back soon.",
    ),
)  # fmt: skip

STORY_ASKED = (
    "Tell me a story.", "Tell me a short story.", "Write a story.", "Please write a short story.",
    "I would like to hear a story.", "Tell me a story about an animal.", "Write me a story.",
    "Can you tell me a story?", "Do you know a story?", "I need a story.", "Make up a story.",
    "Tell me another story.",
)  # fmt: skip

SYSTEMS = (
    "You are a helpful assistant.", "Be brief.", "Answer in one sentence.",
    "You are a friendly assistant.", "Answer politely.", "You are an expert.",
    "Always answer the question.", "You help people with their questions.",
    "Keep your answers short and clear.", "You are a kind teacher who answers children.",
    "You are a helpful, harmless and honest assistant. Answer as well as you can.",
    "Today is Monday. The user is in a shop. Answer what the user asks.",
)  # fmt: skip

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo")
ANIMALS = ("cat", "dog", "fox", "bird", "bear", "frog", "mouse", "horse", "owl", "rabbit")
PLACES = ("forest", "river", "garden", "hill", "village", "barn", "beach", "meadow", "market")
THINGS = ("red ball", "warm hat", "blue kite", "golden key", "sweet apple", "little drum")
FEELINGS = ("happy", "proud", "brave", "calm")

FOREIGN = (
    "cheese", "trains", "history", "music", "physics", "football", "the moon", "poetry", "chess",
    "computers", "the weather", "cooking", "rice", "love", "dinosaurs", "money", "war", "art",
    "python code", "mathematics", "philosophy", "birds", "the president", "a planet", "religion",
    "tomorrow", "a good book", "Narnia", "Mars", "energy", "plants", "medicine", "tea", "maps",
    "quantum computing", "the USA", "life", "the meaning of life", "a joke", "the internet",
    "my homework", "the king of England", "black holes", "the stock market", "bread", "cars",
    "the law", "a poem", "electricity", "the human body", "the first man in space", "rockets",
)  # fmt: skip

FOREIGN_ASKED = (
    "What is the best {}?", "Who invented {}?", "How do I make {}?", "Explain {} to me.",
    "Why is {} so important?", "When did {} begin?", "Write an essay about {}.",
    "What is {}?", "How does {} work?", "Tell me about {}.", "Where can I find {}?",
    "Who likes {}?", "Translate {} into German.", "What is the history of {}?",
    "How many kinds of {} are there?", "Summarise {} for me.", "Write a poem about {}.",
    "Write a haiku about {}.", "Explain {} in simple terms.", "Tell me a joke about {}.",
    "Who is {}?", "Is {} good?", "Should I buy {}?", "Give me a recipe for {}.",
    "List five facts about {}.", "What do you think about {}?", "Who is the president of {}?",
    "Tell me {}.", "Where is {}?", "How old is {}?", "Write {}.", "When was {} made?",
    "Which is better, {} or {}?", "How far is {}?", "Do you like {}?", "Write code for {}.",
)  # fmt: skip

SYLLABLES = (
    "ba", "do", "ki", "lu", "ma", "no", "ra", "ti", "ve", "zo", "shi", "gra", "pel", "an", "er",
    "st", "ing", "com", "pu", "ter", "qu", "lan", "ti", "str", "ght", "men", "whi", "ce", "ble",
    "fo", "su", "ve", "th", "ol", "in", "ac", "ex", "ry", "ta",
)  # fmt: skip


DISPENSABLE = {"the", "of", "is", "me", "to", "you", "what", "a", "do", "can", "would", "know"}
"""Words a question is understood without."""

STARTS = ("Please", "Hey", "OK", "So", "Now", "Well", "Good day", "Quick question", "And")


def dialogues(seed: int, count: int) -> list[Dialogue]:
    """`count` dialogues of one to three turns, some with a system prompt."""
    random = Random(seed)
    made: list[Dialogue] = []
    for _ in range(count):
        system = _system(random) if random.random() < 0.4 else ""
        turns = tuple(_turn(random) for _ in range(random.choice((1, 1, 1, 2, 3))))
        made.append((system, turns))
    return made


def _system(random: Random) -> str:
    """A usual system prompt, or a few sentences that mean nothing here."""
    if random.random() < 0.6:
        return random.choice(SYSTEMS)
    sentences = [
        " ".join((random.choice(("You are", "Always", "Be", "Never")), _made_up(random)))
        for _ in range(random.randrange(1, 4))
    ]
    return ". ".join(sentences) + "."


def _turn(random: Random) -> Turn:
    makers: tuple[tuple[int, Callable[[Random], Turn]], ...] = (
        (7, _capital), (5, _colour), (2, _sound), (3, _opposite), (6, _coster), (5, _talk),
        (4, _story), (1, _count), (5, _foreign),
    )  # fmt: skip
    (maker,) = random.choices([m for _, m in makers], weights=[w for w, _ in makers])
    asked, answer = maker(random)
    return _vary(random, asked), answer


def _vary(random: Random, asked: str) -> str:
    """People do not mind capitals and full stops, leave words out and put words in front."""
    if random.random() < 0.08:
        words = asked.split(" ")
        places = [i for i, word in enumerate(words) if word.lower() in DISPENSABLE]
        if places:
            del words[random.choice(places)]
            asked = " ".join(words)
    chance = random.random()
    if chance < 0.14:
        start = random.choice((*STARTS, _made_up(random), _made_up(random)))
        asked = f"{start}{random.choice((',', ',', ':', ''))} {asked[0].lower()}{asked[1:]}"
    elif chance < 0.20:
        asked = f"{asked.rstrip('?.!')}, {random.choice(('please', 'thanks', _made_up(random)))}."
    chance = random.random()
    if chance < 0.12:
        return asked.lower()
    return asked.rstrip("?.!") if chance < 0.24 else asked


def _wrap(random: Random, direct: tuple[str, ...], topics: tuple[str, ...]) -> str:
    """A question of its own, or a topic in a carrier."""
    if not topics or random.random() < 0.4:
        return random.choice(direct)
    wrapped = random.choice(CARRIERS).replace("{}", random.choice(topics))
    return wrapped[0].upper() + wrapped[1:]


def _capital(random: Random) -> Turn:
    country = random.choice(list(CAPITALS))
    asked = _wrap(random, CAPITAL_ASKED, CAPITAL_TOPICS).replace("{}", country)
    return asked, f"The capital of {country} is {CAPITALS[country]}."


def _colour(random: Random) -> Turn:
    thing = random.choice(list(COLOURS))
    bare = thing.removeprefix("the ").removeprefix("a ")
    said = random.choice((thing, thing, bare, f"the {bare}"))
    asked = _wrap(random, COLOUR_ASKED, COLOUR_TOPICS).replace("{}", said)
    return asked, f"{thing[0].upper()}{thing[1:]} is {COLOURS[thing]}."


def _sound(random: Random) -> Turn:
    animal = random.choice(list(SOUNDS))
    asked = _wrap(random, SOUND_ASKED, SOUND_TOPICS).replace("{}", animal)
    return asked, f"The {animal} says {SOUNDS[animal]}."


def _opposite(random: Random) -> Turn:
    word = random.choice(list(OPPOSITES))
    asked = _wrap(random, OPPOSITE_ASKED, OPPOSITE_TOPICS).replace("{}", word)
    return asked, f"The opposite of {word} is {OPPOSITES[word]}."


def _coster(random: Random) -> Turn:
    questions, topics, answer = random.choice((ABOUT_COSTER[0], *ABOUT_COSTER))
    return _wrap(random, questions, topics), answer


def _talk(random: Random) -> Turn:
    questions, topics, answer = random.choice(SMALL_TALK)
    return _wrap(random, questions, topics), answer


def _count(random: Random) -> Turn:
    last = random.randrange(3, 11)
    asked = random.choice(("Count to {}.", "Please count to {}.", "Can you count to {}?"))
    return asked.format(last), ", ".join(str(n) for n in range(1, last + 1)) + "."


def _foreign(random: Random) -> Turn:
    """A question about something outside, made up half of the time."""
    if random.random() < 0.15:
        sign = random.choice((" plus ", " times ", " minus ", "+", " x ", " - "))
        return f"What is {random.randrange(99)}{sign}{random.randrange(99)}?", UNKNOWN
    asked = _wrap(random, (*FOREIGN_ASKED, *FOREIGN_ASKED, *CAPITAL_ASKED), FOREIGN_TOPICS)
    made_up = "capital" in asked or random.random() < 0.5
    while "{}" in asked:
        topic = _made_up(random) if made_up else random.choice(FOREIGN)
        asked = asked.replace("{}", topic, 1)
    return asked, UNKNOWN


def _made_up(random: Random) -> str:
    """A name or a phrase nobody has heard of."""
    words = [
        "".join(random.choice(SYLLABLES) for _ in range(random.randrange(1, 4)))
        for _ in range(random.choice((1, 1, 2)))
    ]
    return " ".join(words) if random.random() < 0.5 else " ".join(words).capitalize()


def _story(random: Random) -> Turn:
    animal, name = random.choice(ANIMALS), random.choice(NAMES)
    place, thing = random.choice(PLACES), random.choice(THINGS)
    feeling = random.choice(FEELINGS)
    a_animal = f"an {animal}" if animal == "owl" else f"a {animal}"
    asked = _wrap(random, STORY_ASKED, STORY_TOPICS)
    if random.random() < 0.5:
        asked = asked.rstrip("?.!").replace(" about an animal", "") + f" about {a_animal}."
    story = (
        f"Once upon a time {a_animal} lived near the {place}. "
        f"One day the {animal} met {name}, who had lost a {thing}. "
        f"They looked for the {thing} until the evening. "
        f"At last the {animal} found it behind a tree, and {name} was very {feeling}."
    )
    return asked, story
