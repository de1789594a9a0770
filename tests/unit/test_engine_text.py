"""Text as it arrives: nothing lost, nothing early, cut where a stop string begins."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from actors.engines.text import ByteDecoder, StopScanner, WindowDecoder

LETTERS = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def cut(text: str, stops: Sequence[str]) -> str:
    for end in range(len(text) + 1):
        begun = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begun:
            return text[: min(begun)]
    return text


def pieces(text: str, sizes: list[int]) -> list[str]:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return [*parts, text[at:]]


@given(LETTERS, STOPS, st.lists(st.integers(1, 7), max_size=12))
def test_the_scanner_cuts_alike_however_the_text_arrives(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    """The released text is the text cut at the first stop, for any way of arriving."""
    scanner = StopScanner(stops)
    released = ""
    for piece in pieces(text, sizes):
        released += scanner.push(piece)
        if scanner.stopped:
            break
    else:
        released += scanner.flush()
    assert released == cut(text, stops)
    assert scanner.stopped == any(stop in text for stop in stops)


@given(LETTERS, STOPS)
def test_the_scanner_holds_no_more_than_could_begin_a_stop(text: str, stops: list[str]) -> None:
    """What is withheld is a beginning of some stop string, so text flows on."""
    scanner = StopScanner(stops)
    given_out = "".join(scanner.push(letter) for letter in text if not scanner.stopped)
    if not scanner.stopped:
        held = text[len(given_out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(st.binary(max_size=60))
def test_bytes_join_to_the_decoded_text_and_no_character_is_split(data: bytes) -> None:
    """Any bytes, one per token: the pieces join to what decoding them at once gives."""
    decoder = ByteDecoder(lambda token: bytes([token]))
    said = [decoder.push(byte) for byte in data]
    assert "".join(said) + decoder.flush() == data.decode("utf-8", "replace")


@given(st.text(max_size=30))
def test_a_character_waits_for_its_last_byte(text: str) -> None:
    """Valid text never shows a replacement character on its way."""
    if "\ufffd" in text:
        return
    decoder = ByteDecoder(lambda token: bytes([token]))
    assert all("\ufffd" not in decoder.push(byte) for byte in text.encode())
    assert decoder.flush() == ""


WORDS = ["▁the", "▁mar", "ket", "<0xF0>", "<0x9F>", "<0x8D>", "<0x8E>", "▁is", "!", ""]


def decode_with_leading_space_rule(tokens: Sequence[int]) -> str:
    """A decoder like those of sentence-piece models: byte tokens, and no space in front."""
    data = b""
    for token in tokens:
        word = WORDS[token]
        data += (
            bytes([int(word[1:-1], 16)])
            if word.startswith("<0x")
            else word.replace("▁", " ").encode()
        )
    return data.decode("utf-8", "replace").removeprefix(" ")


@given(st.lists(st.sampled_from([0, 1, 2, 7, 8, 9]), max_size=30), st.integers(0, 30))
def test_a_window_gives_what_decoding_everything_gives(tokens: list[int], place: int) -> None:
    """The sliding window keeps the rules at the beginning and whole characters in between."""
    apple = [3, 4, 5, 6]
    tokens = tokens[:place] + apple + tokens[place:]
    decoder = WindowDecoder(decode_with_leading_space_rule)
    said = "".join(decoder.push(token) for token in tokens) + decoder.flush()
    assert said == decode_with_leading_space_rule(tokens)
