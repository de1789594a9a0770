"""Where an audit may begin: what everything before some batch was found to add up to.

A checkpoint is only as good as the audit that made it, so it is kept by the accountant, in
the ledger, after an audit that found nothing wrong. It holds the hash of its batch: a history
that is rewritten later no longer leads to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from market.accounting.chain import GENESIS
from market.accounting.state_rows import VerifiedRow

JOURNAL_KINDS: Final = {
    "account": "accounts",
    "transfer": "transfers",
    "request": "requests",
    "delivery": "deliveries",
    "operation": "operations",
}
"""The journals in the order in which a batch seals them, and what many rows of each are called."""
_YOUNGER: Final = {"delivery": 1}  # a checkpoint from before this journal has seen none of it
_ONLY_ID: Final = 1  # there is one checkpoint, the latest


def _ones() -> Mapping[str, int]:
    return dict.fromkeys(JOURNAL_KINDS, 1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything up to batch `number` was right. The default is the beginning of all.

    `sums` has (debited, credited) in nano-USD of every account that was ever posted on, by
    its number; `following` the next free number of each journal; `counts` and `totals_nano`
    what a report says about the whole history.
    """

    number: int = 0
    hash: bytes = GENESIS
    sums: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    following: Mapping[str, int] = field(default_factory=_ones)
    counts: Mapping[str, int] = field(default_factory=dict)
    totals_nano: Mapping[str, int] = field(default_factory=dict)


def checkpoint_row(found: Checkpoint, now_ns: int) -> VerifiedRow:
    """The row that remembers this checkpoint, in place of an earlier one."""
    told = {
        "sums": {str(number): list(sums) for number, sums in found.sums.items()},
        "following": dict(found.following),
        "counts": dict(found.counts),
        "totals_nano": dict(found.totals_nano),
    }
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return VerifiedRow(_ONLY_ID, found.number, found.hash, text, now_ns)


def checkpoint_of(row: VerifiedRow) -> Checkpoint:
    """The checkpoint that a row remembers; raises ValueError when it cannot be read."""
    try:
        told = json.loads(row.counters)
        sums = {int(number): (int(d), int(c)) for number, (d, c) in told["sums"].items()}
        following = {**_YOUNGER, **told["following"]}
        following = {kind: int(following[kind]) for kind in JOURNAL_KINDS}
        counts = {str(name): int(count) for name, count in told["counts"].items()}
        totals_nano = {str(name): int(nano) for name, nano in told["totals_nano"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the checkpoint at batch {row.number} cannot be read") from error
    return Checkpoint(row.number, row.hash, sums, following, counts, totals_nano)
