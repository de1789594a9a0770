"""Traces of every format are played as they were recorded, and ours as they were written."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.policy.prefixes import BLOCK_TOKENS
from simulator.streams import Streams
from simulator.workloads.replay import ASSUMED, REORDER_ROWS
from simulator.workloads.rows import Notes
from simulator.workloads.source import arrivals
from simulator.workloads.trace_formats import read
from simulator.workloads.trace_rows import (
    EMPTY,
    TraceRow,
    anonymous,
    json_line,
    json_lines,
    row_of,
)
from tests.support.trace_kit import (
    AZURE,
    AZURE_2024,
    BURSTGPT,
    BURSTGPT_SESSIONS,
    MOONCAKE,
    VIDUR,
    brief,
    played,
    workload,
)
from tests.support.workload_kit import MODELS, PLAIN, drawn, workloads_of

# ── the formats ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AZURE, [(0.0, 4808, 10), (0.052, 3180, 8), (3.0, 110, 27)]),
        (AZURE_2024, [(0.0, 2162, 5), (1.007405, 2399, 6)]),
        (BURSTGPT, [(0.0, 472, 18), (113.0, 417, 276)]),
        (BURSTGPT_SESSIONS, [(0.0, 906, 446), (51.0, 36, 29)]),
        (VIDUR, [(0.0, 300, 20), (1.5, 40, 5)]),
        (MOONCAKE, [(0.0, 1100, 50), (3.052, 1600, 60)]),
        ("\ufeff" + VIDUR.replace("\n", "\r\n\r\n"), [(0.0, 300, 20), (1.5, 40, 5)]),
        (VIDUR.replace("arrived_at", " Arrived_At "), [(0.0, 300, 20), (1.5, 40, 5)]),
    ],
    ids=["azure", "2024", "burstgpt", "sessions", "vidur", "mooncake", "bom", "case"],
)  # fmt: skip
def test_a_trace_is_told_by_its_first_line(
    text: str, expected: list[tuple[float, int, int]], trace: Callable[..., Path]
) -> None:
    """Every published format is read without being named, plain or packed, from its first
    request on; rows of failed requests are passed over.
    """
    plain = trace(text)
    packed = trace(gzip.compress(text.encode()), "packed.bin")

    assert brief(played(plain)) == expected
    assert brief(played(packed)) == expected


def test_what_is_passed_over_is_counted(trace: Callable[..., Path]) -> None:
    """A failed request of a trace is in the notes, and not in the run."""
    notes = Notes()
    played(trace(BURSTGPT), notes=notes)

    assert notes[EMPTY] == 1


def test_a_format_that_is_named_is_meant(trace: Callable[..., Path]) -> None:
    """What the file looks like does not matter then."""
    with pytest.raises(InvalidRequest, match="no column arrived_at"):
        played(trace(AZURE), 'format = "vidur"')


def test_sessions_and_consumers_stay_together(trace: Callable[..., Path]) -> None:
    """Whatever has one session, or begins with the same blocks, is of one consumer."""
    first, second = played(trace(BURSTGPT_SESSIONS), "consumers = { count = 1000 }")
    third, fourth = played(trace(MOONCAKE, "m.jsonl"), "consumers = { count = 1000 }")

    assert (first.session, first.consumer) == (second.session, second.consumer)
    assert third.consumer == fourth.consumer


def test_blocks_of_mooncake_become_ours(trace: Callable[..., Path]) -> None:
    """Two prompts with two blocks of 512 in common have sixteen of ours in common."""
    first, second = played(trace(MOONCAKE, "m.jsonl"), 'models = { "qwen3.5-7b" = 1 }')

    assert len(first.prefix) == 1100 // BLOCK_TOKENS
    assert len(second.prefix) == 1600 // BLOCK_TOKENS
    assert first.prefix[:16] == second.prefix[:16]
    assert first.prefix[16] != second.prefix[16]
    assert first.leaves == first.prefix


def test_models_are_renamed_or_assumed(trace: Callable[..., Path]) -> None:
    """A name is explained by the workload, else the first unknown one is our first model, and
    that is counted; without a name the shares decide.
    """
    notes = Notes()
    assumed = played(trace(BURSTGPT), notes=notes)
    named = played(trace(BURSTGPT), 'renamed = { "GPT-4" = "qwen3.5-7b", "*" = "gemma-4-12b" }')
    shared = played(trace(AZURE), 'models = { "gemma-4-12b" = 1 }')

    assert [a.model for a in assumed] == list(MODELS)
    assert notes[ASSUMED] == 2
    assert [a.model for a in named] == ["gemma-4-12b", "qwen3.5-7b"]
    assert {a.model for a in shared} == {"gemma-4-12b"}


def test_a_trace_may_name_models_that_have_no_share(trace: Callable[..., Path]) -> None:
    """`models` says what nameless rows and unknown names are dealt, not what may be named."""
    share = 'models = { "gemma-4-12b" = 1 }\n'
    named = played(trace(BURSTGPT), share + 'renamed = { "GPT-4" = "qwen3.5-7b" }')
    own = '{"timestamp": 0, "input_length": 5, "output_length": 5, "model": "qwen3.5-7b"}'

    assert [a.model for a in named] == ["gemma-4-12b", "qwen3.5-7b"]
    assert [a.model for a in played(trace(own, "own.jsonl"), share)] == ["qwen3.5-7b"]


def test_hashes_without_an_owner_are_kept_apart(trace: Callable[..., Path]) -> None:
    """Blocks of a named consumer are its own already; others are told apart by whom they are
    dealt to, and all are numbers of 64 bits with a sign.
    """
    row = '{"timestamp": 0, "input_length": 64, "output_length": 5, "block_tokens": 64, '
    named = row + f'"consumer": "ada", "hash_ids": [{2**64 - 5}]}}'
    nameless = row + '"hash_ids": [7]}'
    path = trace(f"{named}\n{nameless}\n{nameless}\n")
    first, second, third = played(path, 'models = { "gemma-4-12b" = 1 }')
    (other, *_) = played(trace(nameless, "one.jsonl"), 'models = { "qwen3.5-7b" = 1 }')

    assert first.prefix == (-5,)
    assert second.prefix == third.prefix != (7,)
    assert other.prefix != second.prefix


# ── time ──────────────────────────────────────────────────────────────────────────────


def test_a_trace_is_played_faster_and_in_part(trace: Callable[..., Path]) -> None:
    """Speed divides the times; a window is cut out of the trace's own time and begins at 0."""
    path = trace("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
        f"{second},{second + 1},1\n" for second in range(100, 200)
    ))  # fmt: skip

    fast = played(path, "speed = 10")
    part = played(path, "from_s = 20\nuntil_s = 30\nspeed = 2")

    assert [a.at_s for a in fast] == pytest.approx([n / 10 for n in range(100)])
    assert [a.prompt_tokens for a in part] == list(range(121, 131))
    assert [a.at_s for a in part] == pytest.approx([n / 2 for n in range(10)])


@pytest.mark.parametrize("rate", ["rate_per_s = 20", "rho = 0.5"])
def test_a_trace_is_played_at_a_rate(rate: str, trace: Callable[..., Path]) -> None:
    """As fast as a rate, or a share of the fleet for the trace's own lengths, makes it."""
    rows = "".join(f"{0.5 * n},{100 if n % 2 else 300},50\n" for n in range(401))
    path = trace("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    asked = []

    def capacity(mix: object) -> float:
        asked.extend(mix)  # type: ignore[arg-type]
        return 40.0

    workloads = workloads_of(workload(path, rate), MODELS[:1])
    found = list(arrivals(workloads, Streams(1), capacity=capacity))

    assert 400 / found[-1].at_s == pytest.approx(20, rel=0.01)
    assert [(d.rate, round(d.prompt_tokens), d.output_tokens) for d in asked] == (
        [(1.0, 200, 50.0)] if "rho" in rate else []
    )


def test_rows_that_are_a_little_late_find_their_place(trace: Callable[..., Path]) -> None:
    """Times out of order by less than the window come out in order; beyond it the line that is
    too late is named, and nothing wrong was played before.
    """
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    times = np.random.default_rng(1).permutation(REORDER_ROWS)
    mixed = trace(header + "".join(f"{time},5,5\n" for time in times.tolist()))
    late = trace(
        header + "".join(f"{n},5,5\n" for n in range(1, REORDER_ROWS + 2)) + "0,5,5\n", "l.csv"
    )

    in_order = played(mixed)

    assert [a.at_s for a in in_order] == list(range(REORDER_ROWS))
    with pytest.raises(InvalidRequest, match=rf"l\.csv:{REORDER_ROWS + 3}: .* sort the trace"):
        played(late)


def test_a_trace_is_read_as_it_is_played(tmp_path: Path) -> None:
    """A long file needs no more memory than its window of rows, and what is wrong at its end
    does not keep its beginning from being played.
    """
    path = tmp_path / "long.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for n in range(30_000):
            file.write(f'{{"timestamp":{n},"input_length":9,"output_length":1,"hash_ids":[{n}]}}\n')
        file.write("not JSON\n")
    requests = arrivals(workloads_of(workload(path)), Streams(1))
    tracemalloc.start()
    try:
        for _ in range(12_000):
            next(requests)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16e6
    with pytest.raises(InvalidRequest, match=r"gz:30001: not JSON"):
        for _ in requests:
            pass


# ── our own ───────────────────────────────────────────────────────────────────────────

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=12)
ROWS = st.builds(
    TraceRow,
    at_s=st.floats(0, 1e6).map(lambda s: round(s, 6)),
    prompt_tokens=st.integers(1, 100_000),
    output_tokens=st.integers(1, 30_000),
    model=NAMES,
    consumer=NAMES,
    session=NAMES,
    request_class=st.sampled_from([None, "interactive", "batch"]),
    deadline_s=st.none() | st.floats(0, 1e5).map(lambda s: round(s, 3)),
    max_tokens=st.none() | st.integers(0, 10**6),
    max_price_in_nano=st.none() | st.integers(0, 10**6),
    max_price_out_nano=st.none() | st.integers(0, 10**6),
    sort=st.sampled_from([None, "price", "latency", "throughput"]),
    trust=st.sampled_from([None, "basic", "verified"]),
    prefix=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple),
    answer=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
def test_what_is_written_is_what_is_read(tmp_path: Path, rows: list[TraceRow]) -> None:
    """A trace of ours comes back row by row, times to the nanosecond."""
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json_line(row) + "\n" for row in rows))
    found = list(read(path, "auto", Notes()))

    assert [row.at_s for row in found] == pytest.approx([row.at_s for row in rows], abs=1e-9)
    assert [replace(row, at_s=0.0, line=0, deadline_s=None) for row in found] == [
        replace(
            row, at_s=0.0, deadline_s=None, block_tokens=64 if row.prefix or row.answer else 512
        )
        for row in rows
    ]
    for one, other in zip(found, rows, strict=True):
        assert (one.deadline_s is None) == (other.deadline_s is None)
        assert (one.deadline_s or 0) == pytest.approx(other.deadline_s or 0, abs=1e-9)


def test_a_run_that_is_written_down_is_played_again(tmp_path: Path) -> None:
    """Simulated requests, written as a trace and read, are the same requests: who, which model,
    what may be cached, what is wished for.
    """
    text = PLAIN + (
        "sessions = { turns = 3, think_s = 5 }\nprefixes = { count = 1, tokens = 500 }\n"
        "deadline_s = 30\n"
        'preferences = { sort = "price", max_price_pct = 80, trust = "verified" }\n'
    )
    first = drawn(text, 500)
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json_lines(map(row_of, first))))

    again = played(path)

    assert [a.at_s for a in again] == pytest.approx([a.at_s - first[0].at_s for a in first])
    assert [replace(a, at_s=0.0, kind="") for a in again] == [
        replace(a, at_s=0.0, kind="") for a in first
    ]


def test_a_trace_that_runs_backwards_is_not_written() -> None:
    """Lines are in order of time or not at all."""
    rows = [TraceRow(2.0, 5, 5), TraceRow(1.0, 5, 5)]

    with pytest.raises(ValueError, match="decrease"):
        list(json_lines(rows))


def test_pseudonyms_tell_apart_and_nothing_else() -> None:
    """Equal consumers, sessions and beginnings stay equal, unequal ones unequal; no name is
    left, and another secret gives other pseudonyms.
    """
    rows = [
        TraceRow(0.0, 130, 5, consumer=name, session=f"{name}-chat", prefix=(1, block))
        for name, block in (("ada", 2), ("bob", 3), ("ada", 2))
    ]
    found = [anonymous(row, b"k" * 32) for row in rows]
    other = anonymous(rows[0], b"l" * 32)

    assert found[0] == found[2]
    assert found[0].consumer != found[1].consumer
    assert found[0].prefix[0] == found[1].prefix[0]
    assert found[0].prefix[1] != found[1].prefix[1]
    assert "ada" not in json_line(found[0])
    assert not {other.consumer, other.session, *other.prefix} & {
        found[0].consumer, found[0].session, *found[0].prefix
    }  # fmt: skip
    assert anonymous(TraceRow(0.0, 1, 1), b"k" * 16) == TraceRow(0.0, 1, 1)


def test_lengths_are_drawn_again_from_a_trace(trace: Callable[..., Path]) -> None:
    """Prompts and answers come in the trace's pairs, each as often as any other."""
    path = trace(AZURE)
    text = f'[[workload]]\nkind = "resampled"\nfile = {json.dumps(str(path))}\nrate_per_s = 5\n'
    pairs = [(a.prompt_tokens, a.output_tokens) for a in drawn(text, 6_000)]

    assert set(pairs) == {(4808, 10), (3180, 8), (110, 27)}
    assert pairs.count((110, 27)) == pytest.approx(2_000, rel=0.1)


def rows_of(path: Path) -> Iterator[TraceRow]:
    return read(path, "auto", Notes())


def test_unknown_fields_and_order_do_not_matter(trace: Callable[..., Path]) -> None:
    """Other tools' fields are passed by, and null is the same as nothing."""
    line = (
        '{"tool": {"x": [1]}, "output_length": 5.0, "input_length": 7, "timestamp": 1.5, '
        '"model": null}'
    )
    (row,) = rows_of(trace(line))

    assert (row.at_s, row.prompt_tokens, row.output_tokens, row.model) == (0.0015, 7, 5, "")
