"""One request of a trace, and our own format for it: JSON lines, a superset of Mooncake's.

    {"timestamp": 1250.5, "input_length": 812, "output_length": 95,
     "model": "qwen3.5-7b", "consumer": "c_5f…", "session": "s_01…", "class": "interactive",
     "deadline_ms": 30000, "max_tokens": 1024, "max_price_in_nano": 12, "max_price_out_nano": 48,
     "sort": "price", "trust": "verified", "cached_tokens": 640,
     "hash_ids": […], "answer_hash_ids": […], "block_tokens": 64}

Only the first three are needed. Tools that replay Mooncake's traces read ours; what the live
market exports and what the lab plays are the same lines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from market.policy.preferences import Sort
from market.policy.prefixes import BLOCK_TOKENS
from market.types import RequestClass
from simulator.records import Arrival

MOONCAKE_BLOCK_TOKENS: Final = 512
"""What a hash stands for where a line does not say it."""

EMPTY: Final = "trace rows passed over: no prompt or no answer"
PSEUDONYM_BYTES = 8


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A request as it was seen. `at_s` is from wherever the trace counts; empty text and None
    are what it does not say. `prefix` are hashes of the prompt's blocks of `block_tokens`
    tokens, each standing for all tokens up to its end; `answer` those of the blocks after them,
    up to the end of the answer. `cached_tokens` of the prompt were found in a cache: told to who
    reads, a replay finds its own.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    model: str = ""
    consumer: str = ""
    session: str = ""
    request_class: RequestClass | None = None
    deadline_s: float | None = None
    max_tokens: int | None = None
    max_price_in_nano: int | None = None
    max_price_out_nano: int | None = None
    sort: Sort | None = None
    trust: str | None = None
    cached_tokens: int | None = None
    prefix: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    block_tokens: int = BLOCK_TOKENS
    line: int = 0


def row_of(arrival: Arrival) -> TraceRow:
    """A simulated request as a row of a trace."""
    wishes = arrival.preferences
    return TraceRow(
        at_s=arrival.at_s,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=arrival.output_tokens,
        model=arrival.model,
        consumer=arrival.consumer,
        session=arrival.session,
        request_class=arrival.request_class,
        deadline_s=arrival.deadline_s,
        max_tokens=arrival.max_tokens,
        max_price_in_nano=wishes.max_price_in_nano,
        max_price_out_nano=wishes.max_price_out_nano,
        sort=wishes.sort,
        trust=wishes.trust,
        prefix=arrival.prefix,
        answer=arrival.leaves[len(arrival.prefix) :],
    )


def json_line(row: TraceRow) -> str:
    """A row as one line of JSON, without its end. Times to the nanosecond."""
    fields: dict[str, object] = {
        "timestamp": _short(round(row.at_s * 1e3, 6)),
        "input_length": row.prompt_tokens,
        "output_length": row.output_tokens,
        "model": row.model or None,
        "consumer": row.consumer or None,
        "session": row.session or None,
        "class": row.request_class,
        "deadline_ms": None if row.deadline_s is None else _short(round(row.deadline_s * 1e3, 6)),
        "max_tokens": row.max_tokens,
        "max_price_in_nano": row.max_price_in_nano,
        "max_price_out_nano": row.max_price_out_nano,
        "sort": row.sort,
        "trust": row.trust,
        "cached_tokens": row.cached_tokens,
    }
    if row.prefix or row.answer:
        fields["hash_ids"] = row.prefix
        fields["answer_hash_ids"] = row.answer or None
        fields["block_tokens"] = row.block_tokens
    said = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(said, separators=(",", ":"), allow_nan=False)


def json_lines(rows: Iterable[TraceRow]) -> Iterator[str]:
    """Rows in order of time as lines, the first one at 0; what a day's absolute times were is
    nobody's business. Raises ValueError when the times decrease.
    """
    start_s = last_s = None
    for row in rows:
        if start_s is None:
            start_s = row.at_s
        if last_s is not None and row.at_s < last_s:
            raise ValueError(f"a trace's times do not decrease: {row.at_s} after {last_s}")
        last_s = row.at_s
        yield json_line(replace(row, at_s=row.at_s - start_s)) + "\n"


def anonymous(row: TraceRow, secret: bytes) -> TraceRow:
    """The row under pseudonyms: who asked, and equal beginnings, can be told apart and nothing
    else. `secret` is 16 to 64 random bytes, kept by nobody afterwards.
    """
    hashes = {}
    for name in ("prefix", "answer"):
        hashes[name] = tuple(
            int.from_bytes(_keyed(secret, str(each)), "big", signed=True)
            for each in getattr(row, name)
        )
    return replace(
        row,
        consumer=row.consumer and f"c_{_keyed(secret, 'consumer', row.consumer).hex()}",
        session=row.session and f"s_{_keyed(secret, 'session', row.session).hex()}",
        prefix=hashes["prefix"],
        answer=hashes["answer"],
    )


def _keyed(secret: bytes, *names: str) -> bytes:
    text = "\x1f".join(names).encode()
    return hashlib.blake2b(text, digest_size=PSEUDONYM_BYTES, key=secret).digest()


def _short(number: float) -> int | float:
    return int(number) if number.is_integer() else number
