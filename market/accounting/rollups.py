"""Sums of the journal, kept up as it is written, so that nobody has to read it to count.

What Macs did, by the minute, model, machine and payee; what callers used, by the hour, model
and key. A store derives them from the very rows of a commit and adds them in its transaction;
later a minute that is over is *folded* into its hour, its day and all time, so that a long
window needs few rows. `market.accounting.recount` computes them again from the journal.

A request counts at the moment it ended, by the ledger's own clock, which never goes back.
It counts as served when it was charged, or settled for nothing. What one Mac delivered is a
job; of an answer by several Macs the one that finished it has the request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from market.accounting.rows import DeliveryRow, RequestRow
from market.types import AccountId, KeyId, MachineId, ModelId

MINUTE_S: Final = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
LIFE_S: Final = 0
"""The span of rows that hold all time up to where minutes are folded; they begin at 0."""
MACHINE_SPANS_S: Final = (MINUTE_S, HOUR_S, DAY_S)
USE_SPANS_S: Final = (HOUR_S, DAY_S)
"""What each side is kept by, the first as it happens, the others folded; all time besides."""
NS_PER_S: Final = 1_000_000_000
TIMED_MS_MAX: Final = 86_400_000.0
"""A time beyond a day was not measured; it would only spoil the sums."""


class Work(NamedTuple):
    """What Macs have done. Sums of nano-USD, tokens, and microseconds.

    `requests` are answers finished, `jobs` pieces of answers delivered: over all Macs there
    are as many jobs as requests, or more. Cached tokens are among the prompt's, reasoning
    tokens among the completion's. Of `cost_nano` the Macs' owners got `earned_nano`, the
    platform the rest. Of `timed` requests, delivered by one Mac each, it is known how long
    they took: to the first token, and from there on for `decode_tokens`.
    """

    requests: int = 0
    jobs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    earned_nano: int = 0
    timed: int = 0
    ttft_us: int = 0
    decode_us: int = 0
    decode_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion; cached and reasoning tokens are among them."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def fee_nano(self) -> int:
        return self.cost_nano - self.earned_nano


class Use(NamedTuple):
    """What callers have used. `failures` are requests that ended without a charge.

    Such as had no Mac, were left before their first token or could not be finished; a model
    that gave way to another one is among them.
    """

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion; cached and reasoning tokens are among them."""
        return self.prompt_tokens + self.completion_tokens


class WorkKey(NamedTuple):
    """Whose work, and when: `span_s` seconds from the Unix second `start_s` on."""

    span_s: int
    start_s: int
    model: ModelId
    machine: MachineId  # "" where a gateway did not say it
    payee: AccountId


class UseKey(NamedTuple):
    """Whose use, and when: `span_s` seconds from the Unix second `start_s` on."""

    owner: AccountId
    span_s: int
    start_s: int
    model: ModelId
    key_id: KeyId


_Key = TypeVar("_Key", WorkKey, UseKey)
_MinuteOf = tuple[int, ModelId, MachineId, AccountId]
_HourOf = tuple[AccountId, int, ModelId, KeyId]
_UNSAID: Final = MachineId("")
_UNTIMED: Final = (0, 0, 0, 0)
_FAILURE: Final = (0, 1, 0, 0, 0, 0, 0)
WorkSums = dict[WorkKey, list[int]]
UseSums = dict[UseKey, list[int]]


def hours_to(folded_s: int) -> int:
    """The hours before this second are over when the minutes before `folded_s` are folded."""
    return folded_s - folded_s % HOUR_S


def is_served(row: RequestRow) -> bool:
    """Whether this ended request counts as one that was answered."""
    return row.status == "settled" or row.cost_nano > 0


def sums_of(
    requests: Iterable[RequestRow], deliveries: Iterable[DeliveryRow]
) -> tuple[WorkSums, UseSums]:
    """The sums of these ended requests, by the minute and by the hour.

    The deliveries come in the order of their requests. This is on the way of every settlement,
    so what belongs together is gathered first and added up at once: 1 µs a request.
    """
    work: defaultdict[_MinuteOf, list[tuple[int, ...]]] = defaultdict(list)
    use: defaultdict[_HourOf, list[tuple[int, ...]]] = defaultdict(list)
    parts = iter(deliveries)
    for row in requests:
        end_s = row.finished_ns // NS_PER_S
        hour = (row.owner, end_s // HOUR_S, row.model, row.key_id)
        if not is_served(row):
            use[hour].append(_FAILURE)
            continue
        use[hour].append((1, 0, *row[5:10]))  # the four token counts and the cost
        minute, payee = end_s // MINUTE_S, row.payee
        assert payee is not None
        if row.deliveries is None:
            # The same with what the payee got of it.
            done = (1, 1, *row[5:11], *_times(row))
            work[minute, row.model, row.machine or _UNSAID, payee].append(done)
            continue
        own = [next(parts) for _ in range(row.deliveries)]
        for part, measures in _pieces(row, own):
            work[minute, row.model, part.machine or _UNSAID, part.payee].append(measures)
    return (
        {
            WorkKey(MINUTE_S, minute * MINUTE_S, model, machine, payee): _total(rows)
            for (minute, model, machine, payee), rows in work.items()
        },
        {
            UseKey(owner, HOUR_S, number * HOUR_S, model, key_id): _total(rows)
            for (owner, number, model, key_id), rows in use.items()
        },
    )


def _total(rows: Sequence[tuple[int, ...]]) -> list[int]:
    return list(rows[0]) if len(rows) == 1 else list(map(sum, zip(*rows, strict=True)))


def _pieces(
    row: RequestRow, deliveries: Sequence[DeliveryRow]
) -> Iterator[tuple[DeliveryRow, tuple[int, ...]]]:
    """What each Mac delivered. Reasoning tokens are the last ones' as far as theirs reach."""
    reasoning_left = row.reasoning_tokens
    last = len(deliveries) - 1
    times = _times(row) if last == 0 else _UNTIMED
    for part in reversed(deliveries):
        finished = int(part.number == last)
        if not (part.completion_tokens or finished):
            continue  # lost before its first token: no job
        reasoning = min(reasoning_left, part.completion_tokens)
        reasoning_left -= reasoning
        tokens = (part.prompt_tokens, part.completion_tokens, part.cached_tokens, reasoning)
        money = (part.cost_nano, part.provider_nano)
        yield part, (finished, 1, *tokens, *money, *(times if finished else _UNTIMED))


def _times(row: RequestRow) -> tuple[int, int, int, int]:
    """Whether it is known, then microseconds to the first token and from it, and its tokens."""
    ttft_ms, total_ms = row.ttft_ms, row.total_ms
    if not 0.0 <= ttft_ms <= total_ms <= TIMED_MS_MAX or total_ms == 0.0:
        return _UNTIMED
    ttft_us = int(ttft_ms * 1_000)
    return (1, ttft_us, int(total_ms * 1_000) - ttft_us, row.completion_tokens)


def plus(sums: dict[_Key, list[int]], key: _Key, measures: Sequence[int]) -> None:
    """Add measures to a sum, or begin it."""
    have = sums.get(key)
    if have is None:
        sums[key] = list(measures)
    else:
        for at, measure in enumerate(measures):
            if measure:
                have[at] += measure
