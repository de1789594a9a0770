"""What a workload is made of: the records that `[[workload]]` tables become.

Synthetic or recorded, a workload is named; its name is the `kind` of its requests and the scope
of its random streams.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from market.catalogue import ModelCard
from market.money import asked_nano
from market.policy.preferences import NO_PREFERENCES, Preferences
from market.types import RequestClass
from simulator.workloads.gaps import POISSON, Gaps
from simulator.workloads.intensity import Day, OnOff, Spikes
from simulator.workloads.laws import Law, Lengths

MAX_TOKENS_DEFAULT: Final = 4_096
"""What a client allows for that names no limit; longer answers have their model's own."""

TokenLimit = int | Literal["exact", "model", "usual"]
"""How clients set `max_tokens`: a number, exactly what will be said (an oracle's client), the
model's most, or `MAX_TOKENS_DEFAULT` and the model's most where the answer is longer.
"""


@dataclass(frozen=True, slots=True)
class Drift:
    """Every so often `share` of the popularity is dealt to the models anew, in another order."""

    every_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Popularity:
    """The models that are asked for and what part of requests, or sessions, each has."""

    cards: tuple[ModelCard, ...]
    shares: tuple[float, ...]
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class Consumers:
    """Who asks. The n-th most active has a share of 1/nᶻⁱᵖᶠ of the first one's.

    With `cv` each has arrivals of its own, their burstiness drawn around it (median, and what
    one in ten exceeds); without it one process is dealt to all. `length_sigma` is how far their
    prompts and answers differ, `budget_nano` what each can spend.
    """

    count: int
    zipf: float = 1.0
    cv: tuple[float, float] | None = None
    length_sigma: float = 0.0
    budget_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Sessions:
    """Conversations: so many turns, with so many seconds from an answer to the next question.

    `tokens_per_s` is how fast answers are taken to come, unless it is `closed`: then the next
    turn waits for the real answer.
    """

    turns: Law
    think_s: Law
    tokens_per_s: float = 30.0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Prefixes:
    """System prompts that requests begin with: `count` per consumer, chosen by Zipf's law."""

    count: int
    tokens: Law
    zipf: float = 1.0


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: so many users, each waiting for its answer before it asks again."""

    count: int
    think_s: Law


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `share` of the requests, or sessions, wish for. `price_pct` is a ceiling in per cent
    of the model's price; each consumer has its own between the two.
    """

    preferences: Preferences = NO_PREFERENCES
    price_pct: tuple[float, float] | None = None
    share: float = 1.0

    @property
    def none(self) -> bool:
        return self.preferences == NO_PREFERENCES and self.price_pct is None

    def of(self, card: ModelCard, price_pct: int | None) -> Preferences:
        """The preferences of somebody with this ceiling who asks for this model."""
        if price_pct is None:
            return self.preferences
        return replace(
            self.preferences,
            max_price_in_nano=asked_nano(card.price_in_nano, price_pct),
            max_price_out_nano=asked_nano(card.price_out_nano, price_pct),
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What goes for every request of a workload."""

    request_class: RequestClass = "interactive"
    deadline_s: float | None = None
    max_tokens: TokenLimit = "usual"
    wishes: Wishes = Wishes()


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests: a second, or as a share `rho` of what the fleet can do of them."""

    per_s: float | None = None
    rho: float | None = None


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What the rate is multiplied by over time."""

    on_off: OnOff | None = None
    day: Day | None = None
    spikes: Spikes | None = None


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Requests that are drawn. Either `rate` or `users` says how many."""

    name: str
    lengths: Lengths
    models: Popularity
    consumers: Consumers
    rate: Rate = Rate()
    users: Users | None = None
    gaps: Gaps = POISSON
    rhythm: Rhythm = Rhythm()
    sessions: Sessions | None = None
    prefixes: Prefixes | None = None
    terms: Terms = Terms()

    @property
    def closed(self) -> bool:
        """Whether what comes depends on what became of what came."""
        return self.users is not None or (self.sessions is not None and self.sessions.closed)


@dataclass(frozen=True, slots=True)
class Replayed:
    """Requests that were recorded.

    `format` is a name of `trace_formats.FORMATS`, or "auto". The part from `from_s` to `until_s`
    of the trace is played `speed` times as fast, or as fast as `rate` says. `renamed` are the
    trace's names of models and what they stand for here; where it names none, `models` says.
    """

    name: str
    path: Path
    models: Popularity
    consumers: Consumers
    format: str = "auto"
    speed: float = 1.0
    rate: Rate | None = None
    from_s: float = 0.0
    until_s: float | None = None
    renamed: tuple[tuple[str, ModelCard], ...] = ()
    terms: Terms = Terms()

    @property
    def closed(self) -> bool:
        """Never: the trace says when."""
        return False


Workload = Synthetic | Replayed
