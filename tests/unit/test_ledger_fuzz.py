"""One long random life of a market: no law breaks, and living it again gives the same chain.

By default 10,000 acts, twice; COSTER_LONG=1 lives 1,000,000 twice.
"""

from __future__ import annotations

import os

from tests.support.books import portrait
from tests.support.fuzz import Life
from tests.support.memory_audit import audited

LONG = os.environ.get("COSTER_LONG") == "1"
ACTS = 1_000_000 if LONG else 10_000
CHECK_EVERY, CHECK_GROWTH = 101, 0.02
"""After so many acts, and in a long life after each fiftieth by which the books have grown."""

SEED = int(os.environ.get("COSTER_SEED", "20260503"))


def lived(seed: int) -> Life:
    life = Life(seed)
    life.live(ACTS, commit_every=37, check_every=CHECK_EVERY, check_growth=CHECK_GROWTH)
    return life


def test_a_life_of_random_acts_breaks_no_law_and_can_be_lived_again() -> None:
    """Books and model agree all along; the same seed ends in the same hash, another does not."""
    first, again = lived(SEED), lived(SEED)

    assert first.twin.disk.head.hash == again.twin.disk.head.hash
    assert portrait(first.twin.books) == portrait(again.twin.books)
    assert audited(first.twin.disk).problems == []
    statuses = {ended.status for ended in first.twin.model.ended.values()}
    assert statuses == {"settled", "voided", "expired"}
    other = Life(SEED + 1)
    other.live(1_000, commit_every=37, check_every=101)
    assert other.twin.disk.head.hash != first.twin.disk.head.hash
