"""Prompts that nobody wrote, of exactly so many tokens, equal where a workload says they are.

Every word is one token and stays one wherever it stands, so lengths are exact from one token up
and what two prompts share, a market's caches share. Conversations go on with what was really
answered; where an answer is not there in time it is taken to be the prompt's own words again,
which is what echo and simulated engines say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from market.errors import InvalidRequest
from market.policy.prefixes import BLOCK_TOKENS
from simulator.records import Arrival

WORDS_LEAST: Final = 32
"""With fewer, prompts that should differ might not."""

TALKS_KEPT_MAX: Final = 10_000
"""Conversations remembered; one that is forgotten goes on in other words, which is counted."""

SEAM_WORDS: Final = 4
"""Words before an answer that are looked at with it: what stands farther off changes nothing."""

_SPACE: Final = "Ġ"
_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Speech:
    """A model's tokens as prompts are made of them: `words` are one token each, however they are
    put together.
    """

    words: tuple[str, ...]
    tokenizer: Any

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def speech_of(tokenizer_json: Path) -> Speech:
    """How to speak to a model with this tokenizer.

    Raises InvalidRequest when it cannot be read or has too few words.
    """
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the library raises nothing more specific
        raise InvalidRequest(
            f"{tokenizer_json} cannot be read as a tokenizer ({type(error).__name__}); give the "
            "tokenizer.json of the model that is served.",
            "tokenizer",
        ) from error
    found = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        word = token.removeprefix(_SPACE)
        if not token.startswith(_SPACE) or len(word) < 2 or not (word.isascii() and word.isalpha()):
            continue
        if tokenizer.encode(f" {word}", add_special_tokens=False).ids == [number]:
            found.append(f" {word}")
    if len(found) < WORDS_LEAST or not _stay_whole(tokenizer, found):
        raise InvalidRequest(
            f"{tokenizer_json} has too few words of one token, so no prompt of an exact length "
            "can be made; give another --tokenizer.",
            "tokenizer",
        )
    return Speech(tuple(found), tokenizer)


def _stay_whole(tokenizer: Any, words: Sequence[str]) -> bool:
    """Whether a text of all words has as many tokens as words, and none is put before it."""
    text = "".join([*words, *reversed(words)])
    return len(tokenizer.encode(text).ids) == 2 * len(words)


@dataclass(slots=True)
class _Talk:
    """A conversation as its client has it. `text` is of so many `tokens`; `asked` is its last
    prompt, whose answer of `due` tokens is still to come.
    """

    text: str = ""
    tokens: int = 0
    asked: str = ""
    due: int = 0


class Prompts:
    """The texts of a run's requests, in the order in which they are sent; equal seeds give equal
    texts. `forgotten` counts conversations that went on in other words.
    """

    def __init__(self, speech: Speech, seed: int) -> None:
        self._speech = speech
        self._words = np.array(speech.words, dtype=object)
        self._seed = seed
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._talks: OrderedDict[str, _Talk] = OrderedDict()
        self.forgotten = 0

    def of(self, arrival: Arrival) -> str:
        """The prompt of a request, of `arrival.prompt_tokens` tokens."""
        if not arrival.session:
            return self._joined(self._beginning(arrival))
        talk = self._talks.get(arrival.session)
        if talk is None:
            if len(self._talks) >= TALKS_KEPT_MAX:
                self._talks.popitem(last=False)
                self.forgotten += 1
            talk = self._talks[arrival.session] = _Talk()
            text = self._joined(self._beginning(arrival))
        else:
            self._talks.move_to_end(arrival.session)
            text = self._going_on(talk, arrival.prompt_tokens)
        talk.text = talk.asked = text
        talk.tokens, talk.due = arrival.prompt_tokens, arrival.output_tokens
        return text

    def answered(self, arrival: Arrival, text: str) -> None:
        """What came back for it: its conversation goes on with that, if it has not yet."""
        talk = self._talks.get(arrival.session)
        if talk is not None and talk.due and talk.tokens == arrival.prompt_tokens:
            # A model's own text may be cut into tokens otherwise than it was said in.
            before = " ".join(["", *talk.text.rsplit(" ", SEAM_WORDS)[1:]])
            talk.tokens += self._speech.count(before + text) - self._speech.count(before)
            talk.text += text
            talk.due = 0

    def _going_on(self, talk: _Talk, tokens: int) -> str:
        """All that was said, and new words up to this length."""
        text = talk.text
        if talk.due:  # nothing came, or not yet
            text += _again(talk.asked, talk.due)
            talk.tokens += talk.due
        if talk.tokens >= tokens:  # a limit has cut it
            return _first(text, tokens)
        return text + self._joined(self._fresh(tokens - talk.tokens))

    def _beginning(self, arrival: Arrival) -> IntArray:
        """Words that stand for the prompt's blocks, and behind them words of its own."""
        blocks = arrival.prefix[: arrival.prompt_tokens // BLOCK_TOKENS]
        rest = arrival.prompt_tokens - len(blocks) * BLOCK_TOKENS
        return np.concatenate((self._blocks(blocks), self._fresh(rest)))

    def _blocks(self, hashes: Sequence[int]) -> IntArray:
        """Words of this run: what an earlier one has left in a market's caches is of no use."""
        return block_words(hashes, len(self._words), self._seed)

    def _fresh(self, count: int) -> IntArray:
        return self._random.integers(0, len(self._words), count)

    def _joined(self, numbers: IntArray) -> str:
        return "".join(self._words[numbers].tolist())


def block_words(hashes: Sequence[int], words: int, salt: int) -> IntArray:
    """The numbers of the words of these blocks: equal hashes, equal words under one salt."""
    ids = np.array([each & 0xFFFF_FFFF_FFFF_FFFF for each in hashes], dtype=np.uint64)
    ids = (ids ^ np.uint64(salt & 0xFFFF_FFFF_FFFF_FFFF)) * _MIX_1
    mixed = ids[:, None] + np.arange(BLOCK_TOKENS, dtype=np.uint64)[None, :] * _STRIDE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    numbers: IntArray = ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(words)).astype(np.int64)
    return numbers.ravel()


def _again(text: str, tokens: int) -> str:
    """A text's words over and over, so many of them."""
    words = text.split(" ")[1:]
    if not words:
        return ""
    times, rest = divmod(tokens, len(words))
    return text * times + _first(text, rest)


def _first(text: str, tokens: int) -> str:
    return "".join(f" {word}" for word in text.split(" ")[1 : tokens + 1])
