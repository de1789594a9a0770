"""Who gets promo credit at sign-up: once a person, within a budget a day.

A person is known by a fingerprint, the keyed hash of where the sign-up came from; the
operator decides how many accounts behind one fingerprint are still plausible people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from market.accounting.admission import day_of
from market.accounting.state_rows import OwnerRow


@dataclass(frozen=True, slots=True)
class PromoRules:
    """Sums in nano-USD. `per_fingerprint` accounts get the credit; others open without it."""

    amount_nano: int = 10_000_000_000
    per_fingerprint: int = 1
    day_nano: int = 1_000_000_000_000


class Promos:
    """How much promo credit has been granted, to whom and on which day."""

    def __init__(self, rules: PromoRules, owners: Iterable[OwnerRow]) -> None:
        self._rules = rules
        self._by_fingerprint: Counter[str] = Counter()
        self._day = 0
        self._day_nano = 0
        for row in sorted(owners, key=lambda row: row.created_ns):
            if row.fingerprint:
                self._count(row.fingerprint, row.promo_nano, row.created_ns)

    def due(self, fingerprint: str, now_ns: int) -> int:
        """What a sign-up from here gets now; 0 when it had its share or the day's is spent."""
        rules = self._rules
        spent_nano = self.granted_today_nano(now_ns)
        if self._by_fingerprint[fingerprint] >= rules.per_fingerprint:
            return 0
        return rules.amount_nano if spent_nano + rules.amount_nano <= rules.day_nano else 0

    def granted_today_nano(self, now_ns: int) -> int:
        """What sign-ups have been granted so far on this UTC day."""
        return self._day_nano if day_of(now_ns) == self._day else 0

    def granted(self, fingerprint: str, promo_nano: int, now_ns: int) -> None:
        """Remember a sign-up."""
        self._count(fingerprint, promo_nano, now_ns)

    def _count(self, fingerprint: str, promo_nano: int, now_ns: int) -> None:
        if not promo_nano:
            return
        self._by_fingerprint[fingerprint] += 1
        day = day_of(now_ns)
        if day != self._day:
            self._day, self._day_nano = day, 0
        self._day_nano += promo_nano
