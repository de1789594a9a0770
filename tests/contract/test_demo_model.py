"""The demo model: small, loadable by anyone, and right about what it was taught.

The held-out phrasings are absent from the corpus, so they measure more than memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import actors.demo
from actors.demo.corpus import dialogues
from actors.demo.held_out import HELD_OUT, OUTSIDE
from actors.demo.recipe import CHAT_TEMPLATE, DIALOGUES, SEED
from actors.engines.mlx.runtime import import_mlx
from actors.engines.model_folder import read_folder

FOLDER = Path(actors.demo.__file__).parent / "model"
BYTES_MAX = 1_200_000
RIGHT_MIN = 16  # of twenty
STRANGE_SYSTEM = "You are a pirate who loves the sea. Never break character."

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def ask() -> Ask:
    import_mlx()
    import mlx_lm

    loaded: Any = mlx_lm.load(str(FOLDER))
    model, tokenizer = loaded[:2]

    @cache
    def answer(*said: str, system: str = "") -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": ("user", "assistant")[place % 2], "content": text}
            for place, text in enumerate(said)
        ]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return mlx_lm.generate(model, tokenizer, prompt, max_tokens=100)

    return answer


def plain(question: str) -> str:
    return question.lower().strip(" ?.!")


def right(answer: str, words: tuple[str, ...]) -> bool:
    return all(word.lower() in answer.lower() for word in words)


def test_it_is_small() -> None:
    """All files together stay within what a wheel may carry."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= BYTES_MAX


def test_a_gateway_can_read_it_without_mlx() -> None:
    """Context, template and both end tokens are in the folder."""
    facts = read_folder(FOLDER)
    assert facts.context_tokens == 1024
    assert facts.chat_template == CHAT_TEMPLATE
    assert facts.eos_ids == (2, 0)
    assert facts.quantization == "bf16"


def test_the_held_out_phrasings_are_held_out() -> None:
    """No question of the corpus equals one of them, whatever the case or the full stop."""
    taught = {plain(asked) for _, turns in dialogues(SEED, DIALOGUES) for asked, _ in turns}
    assert len(HELD_OUT) == 20
    assert not taught & {plain(question) for question, _ in HELD_OUT}


def test_it_is_right_about_phrasings_it_never_saw(ask: Ask) -> None:
    """At least four in five, greedily."""
    wrong = [question for question, words in HELD_OUT if not right(ask(question), words)]
    assert len(HELD_OUT) - len(wrong) >= RIGHT_MIN, wrong


def test_a_system_prompt_does_not_break_it(ask: Ask) -> None:
    """The same questions under an unknown system prompt stay right seven times in ten."""
    answers = [(ask(question, system=STRANGE_SYSTEM), words) for question, words in HELD_OUT]
    assert sum(right(answer, words) for answer, words in answers) >= 14


def test_it_says_what_it_does_not_know(ask: Ask) -> None:
    """Four in five questions about anything else get the answer that says so."""
    honest = [question for question in OUTSIDE if "do not know" in ask(question)]
    assert len(honest) >= 0.8 * len(OUTSIDE)


def test_it_keeps_its_answers_through_a_conversation(ask: Ask) -> None:
    """Earlier turns do not change a fact."""
    said: list[str] = []
    for question, words in (
        ("Hello!", ("Hello",)),
        ("What is coster?", ("market",)),
        ("Tell me a story.", ("Once upon a time",)),
        ("What is the capital of Kenya?", ("Nairobi",)),
        ("What color is grass?", ("green",)),
    ):
        said.append(question)
        answer = ask(*said)
        assert right(answer, words), (question, answer)
        said.append(answer)
