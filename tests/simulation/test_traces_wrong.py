"""What is wrong with a trace is said with its file and line, whatever bytes are in it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from tests.support.trace_kit import (
    AZURE,
    BURSTGPT,
    BURSTGPT_SESSIONS,
    MOONCAKE,
    VIDUR,
    played,
)

ROW = '{"timestamp": 0, "input_length": 5, "output_length": 5'

WRONG = {
    "empty": ("", r"trace\.csv: is empty"),
    "blank": ("\n \n\t\n", r"trace\.csv: is empty"),
    "header alone": (AZURE.splitlines()[0], r"no request with a prompt and an answer"),
    "nothing known": ("when,what\n1,2\n", r"csv:1: neither JSON lines nor a header"),
    "a column missing": ("TIMESTAMP,ContextTokens\n2023-11-16,5\n", r"csv:1: no column Generated"),
    "a semicolon": (AZURE.replace(",", ";"), r'csv:1: .* separated by ";"; write it with commas'),
    "a tab": (VIDUR.replace(",", "\t"), r"csv:1: .* separated by tabs; write it with commas"),
    "a column twice": (
        "TIMESTAMP,ContextTokens,ContextTokens,GeneratedTokens\n2023-11-16,5,6,7\n",
        r"csv:1: the column ContextTokens is there twice",
    ),
    "a column twice, written otherwise": (
        BURSTGPT_SESSIONS.replace("Elapsed time", " session id "),
        r"csv:1: the column Session ID is there twice",
    ),
    "a field twice": (ROW + ', "input_length": 6}\n', r"csv:1: the field input_length .* twice"),
    "a row too short": (AZURE + "2023-11-16 18:17:06,4\n", r"csv:5: it has 2 columns and the"),
    "a row too long": (VIDUR + "2,3,4,5,6\n", r"csv:4: it has 5 columns and the header 4"),
    "no date": (AZURE + "yesterday,4,5\n", r"csv:5: the time is no date"),
    "no number": (VIDUR + "2,soon,4,5\n", r"csv:4: the time is no number: 'soon'"),
    "underscores": (VIDUR + "2,3,1_000,5\n", r"csv:4: num_prefill_tokens is no number"),
    "nan": (VIDUR + "2,nan,4,5\n", r"csv:4: the time is no number: 'nan'"),
    "inf": (VIDUR + "2,inf,4,5\n", r"csv:4: the time is no number: 'inf'"),
    "negative time": (VIDUR + "2,-1,4,5\n", r"csv:4: the time must be from 0"),
    "negative tokens": (VIDUR + "2,3,-4,5\n", r"csv:4: num_prefill_tokens must be a whole"),
    "half a token": (VIDUR + "2,3,4.5,5\n", r"csv:4: num_prefill_tokens must be a whole"),
    "too many tokens": (VIDUR + "2,3,4,99999999999\n", r"csv:4: num_decode_tokens must be a"),
    "a quote left open": (VIDUR + '2,"3,4,5\n6,7\n', r"csv:5: (not CSV|it has)"),
    "NUL": (VIDUR + "2,\x003,4,5\n", r"csv:4: (not CSV|the time is no number)"),
    "Latin-1": (
        VIDUR.encode() + b"2,3,4,\xe9\n",
        r"csv:4: not UTF-8",
    ),
    "UTF-16": (AZURE.encode("utf-16"), r"csv: is UTF-16; .*iconv"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), r"csv: is compressed with zstd; .*zstd -d"),
    "zip": (b"PK\x03\x04" + bytes(50), r"csv: is a zip archive"),
    "Parquet": (b"PAR1" + bytes(50), r"csv: is a Parquet file"),
    "gzip cut": (gzip.compress(AZURE.encode() * 50)[:120], r"csv:\d+: the gzip file breaks off"),
    "gzip damaged": (gzip.compress(AZURE.encode())[:-6] + b"xxxxxx", r"csv:5: the gzip file"),
    "gzip of nothing": (gzip.compress(b""), r"csv: is empty"),
    "an endless line": (b"{" + b"x" * (1 << 21), r"csv:1: longer than"),
    "no JSON": ("{'timestamp': 1}\n", r"csv:1: not JSON"),
    "no object": (MOONCAKE + "[1]\n", r"csv:3: not a JSON object"),
    "deep JSON": ('{"a":' + "[" * 100_000 + "\n", r"csv:1: not JSON"),
    "a field missing": ('{"timestamp": 1, "input_length": 3}\n', r"csv:1: no field output_length"),
    "null": ('{"timestamp": null, "input_length": 3}\n', r"csv:1: no field timestamp"),
    "JSON NaN": (ROW.replace("0", "NaN") + "}\n", r"csv:1: not JSON \(NaN is no number"),
    "JSON infinity": (ROW.replace("0", "1e999") + "}\n", r"csv:1: timestamp is too large"),
    "JSON huge": (ROW.replace("0", "9" * 400) + "}\n", r"csv:1: timestamp is too large"),
    "JSON larger": (ROW.replace("0", "9" * 5_000) + "}\n", r"csv:1: (not JSON|timestamp)"),
    "JSON text": (ROW.replace("0", '"0"') + "}\n", r"csv:1: timestamp must be a number"),
    "JSON true": (ROW.replace("0", "true") + "}\n", r"csv:1: timestamp must be a number"),
    "JSON negative": (ROW.replace("0", "-1") + "}\n", r"csv:1: timestamp must be from 0"),
    "hashes": (ROW + ', "hash_ids": ["a"]}\n', r"csv:1: hash_ids must be a list of whole"),
    "wide hashes": (ROW + f', "hash_ids": [{2**64}]}}\n', r"csv:1: hash_ids must be numbers of 64"),
    "blocks": (ROW + ', "block_tokens": 100}\n', r"csv:1: block_tokens must divide 64"),
    "class": (ROW + ', "class": "vip"}\n', r"csv:1: class must be one of interactive, batch"),
    "consumer": (ROW + ', "consumer": 7}\n', r"csv:1: consumer must be text"),
    "a long name": (ROW + f', "consumer": "{"x" * 200}"}}\n', r"csv:1: consumer must be at most"),
    "control": (ROW + ', "session": "a\\u0000b"}\n', r"csv:1: session must be at most"),
    "deadline": (ROW + ', "deadline_ms": -1}\n', r"csv:1: deadline_ms must be from 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_line(name: str, trace: Callable[..., Path]) -> None:
    """Each fault of a trace is refused, naming file, line and what is wrong."""
    content, expected = WRONG[name]

    with pytest.raises(InvalidRequest, match=expected):
        played(trace(content))


def test_what_separates_columns_is_said_when_the_format_is_given(
    trace: Callable[..., Path],
) -> None:
    """Who says the format is told the same as who lets it be found."""
    with pytest.raises(InvalidRequest, match=r'csv:1: .* separated by ";"; write it with commas'):
        played(trace(VIDUR.replace(",", ";")), 'format = "vidur"')


def test_a_column_that_nobody_reads_may_be_there_twice(trace: Callable[..., Path]) -> None:
    """Two nameless columns make nothing of a row ambiguous."""
    text = "".join(f",{line}\n" for line in VIDUR.splitlines())

    assert [each.prompt_tokens for each in played(trace(text))] == [300, 40]


@pytest.mark.parametrize("extra", ["from_s = 100", "from_s = 1\nuntil_s = 2"])
def test_an_empty_window_is_refused(extra: str, trace: Callable[..., Path]) -> None:
    """A window in which nothing is asked is a mistake, not a short run."""
    with pytest.raises(InvalidRequest, match="no request between from_s and until_s"):
        played(trace(AZURE), extra)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file, or a folder, is named with the reason."""
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            played(path)


def test_a_trace_of_one_moment_has_no_rate(trace: Callable[..., Path]) -> None:
    """A rate cannot be made of requests that all come at once."""
    text = VIDUR.splitlines()[0] + "\n0,1,2,3\n1,1,2,3\n"

    with pytest.raises(InvalidRequest, match="one moment"):
        played(trace(text), "rate_per_s = 5")


HEADERS = [AZURE, BURSTGPT, VIDUR, MOONCAKE]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.sampled_from(HEADERS),
    damages=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), min_size=1, max_size=6),
    packed=st.booleans(),
)
def test_a_damaged_trace_is_read_or_refused(
    tmp_path: Path, text: str, damages: list[tuple[int, bytes]], packed: bool
) -> None:
    """Whatever bytes are in a trace, it is played in order or refused in words."""
    content = bytearray(text.encode())
    for at, damage in damages:
        content[at : at + len(damage) // 2] = damage
    path = tmp_path / "damaged"
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))

    requests, refusal = [], str(path)
    try:
        requests = played(path)
    except InvalidRequest as error:
        refusal = error.message

    assert str(path) in refusal
    assert all(before.at_s <= after.at_s for before, after in pairwise(requests))
    assert all(a.prompt_tokens >= 1 and a.output_tokens >= 1 for a in requests)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    """A file of anything ends in words."""
    path = tmp_path / "bytes"
    path.write_bytes(content)

    with pytest.raises(InvalidRequest, match="bytes"):
        played(path)
