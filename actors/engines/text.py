"""From token ids to text: decoding as tokens arrive, and cutting at stop strings.

Both hold text back: a decoder while a character is incomplete, a scanner while the tail could
be the beginning of a stop string. Whatever they hold is released by `flush`, so the pieces
always join to the decoded tokens, cut at the first stop string.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from market.errors import InvalidRequest

PENDING_TOKENS_MAX = 16
"""A character is at most 4 bytes, one byte a token; beyond this the bytes are no text."""

WORDS = (
    "apple", "barrow", "basket", "bell", "bridge", "candle", "cart", "cloud", "coin", "corner",
    "door", "evening", "field", "garden", "harbour", "lamp", "lantern", "market", "meadow",
    "morning", "orange", "pear", "penny", "river", "road", "scale", "square", "street", "summer",
    "town", "window", "winter",
)  # fmt: skip
"""What the ids of an engine without a tokenizer read as."""


class TextDecoder(Protocol):
    """Decodes one sequence. The pieces, with `flush`, join to the decoded sequence."""

    def push(self, token_id: int) -> str:
        """The text this token completes; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is still held, incomplete characters as replacement characters."""
        ...


class Vocabulary(Protocol):
    """Makes decoders, and the text of single tokens."""

    def decoder(self) -> TextDecoder: ...

    def text_of(self, token_id: int) -> str:
        """One token on its own, special tokens included."""
        ...


class WordVocabulary:
    """A vocabulary without a tokenizer: every id is a short word after a space."""

    def __init__(self) -> None:
        self._words = tuple(f" {word}" for word in WORDS)

    def text_of(self, token_id: int) -> str:
        return self._words[token_id % len(self._words)]

    def decoder(self) -> TextDecoder:
        return WordDecoder(self.text_of)


class WordDecoder:
    """Decodes ids whose texts are independent of one another."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self.push = text_of

    def flush(self) -> str:
        return ""


class TokenizerVocabulary:
    """The vocabulary of a tokenizer.json. Special tokens decode to nothing.

    Byte-level vocabularies (most open models) are decoded from a table of bytes, a
    hundred times cheaper than asking the tokenizer; others by decoding a sliding window.
    """

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest when the file is not a tokenizer."""
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise InvalidRequest(
                f"{path} is not a tokenizer of a known format; download or convert it again.",
                "model",
                "bad_model",
            ) from error
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {i: token.content for i, token in added.items()}
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        decoder = json.loads(path.read_text(encoding="utf-8")).get("decoder") or {}
        self._byte_level = decoder.get("type") == "ByteLevel"
        self._bytes: dict[int, bytes] = {}

    def text_of(self, token_id: int) -> str:
        if self._byte_level:
            return self.bytes_of(token_id, special=True).decode("utf-8", "replace")
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The whole text at once, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def decoder(self) -> TextDecoder:
        return ByteDecoder(self.bytes_of) if self._byte_level else WindowDecoder(self.decode)

    def bytes_of(self, token_id: int, special: bool = False) -> bytes:
        """The bytes of one token of a byte-level vocabulary; empty for special tokens."""
        if token_id in self.special_ids and not special:
            return b""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._read_bytes(token_id)
        return known

    def _read_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id) or ""
        return b"".join(
            bytes([_BYTE_OF[char]]) if char in _BYTE_OF else char.encode() for char in token
        )


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level vocabularies write for each byte.

    Printable Latin-1 stands for itself; the other bytes, in order, for U+0100 onwards.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(own)]
    table = {chr(byte): byte for byte in own}
    table.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_alphabet()


class ByteDecoder:
    """Decodes a byte-level sequence through an incremental UTF-8 decoder."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        return self._utf8.decode(b"", True)


class WindowDecoder:
    """Decodes by decoding the last tokens again, for vocabularies with context rules."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._settled = 0  # tokens of the window whose text has been given out

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._pending_text()
        pending = len(self._window) - self._settled
        if pending < PENDING_TOKENS_MAX and (not text or text.endswith("\ufffd")):
            return ""
        del self._window[: self._settled]
        self._settled = len(self._window)
        return text

    def flush(self) -> str:
        text = self._pending_text()
        self._settled = len(self._window)
        return text

    def _pending_text(self) -> str:
        before = self._decode(self._window[: self._settled])
        return self._decode(self._window)[len(before) :]


class StopScanner:
    """Lets text through up to the stop string that completes first.

    Of two that complete on the same character the longer one wins. The outcome does not
    depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certain now; sets `stopped` when a stop string completed."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back only as a possible stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
