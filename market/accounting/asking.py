"""What an account may ask of its own past, and what it is answered: for gateway and accountant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal

from market.accounting.histories import Bounds, UseSum, WorkSum
from market.accounting.paging import After, Sum
from market.accounting.periods import EVER, Period, Stretch
from market.types import KeyId, MachineId, ModelId

ApartBy = Literal["model", "machine", "key_id"]


@dataclass(frozen=True, slots=True)
class RequestsAsked:
    """Single requests that ended in a period, to the second, newest first.

    Nothing named means of every model, key and machine. `rest` is where an earlier page ended.
    """

    period: Period = EVER
    models: tuple[ModelId, ...] = ()
    keys: tuple[KeyId, ...] = ()
    machines: tuple[MachineId, ...] = ()
    rest: Bounds | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class SumsAsked:
    """Sums of a period, told apart by time (in buckets), model, and machine or key.

    A further page asks for the stretch that the first one was of, `after` where that ended.
    """

    period: Period = EVER
    by: tuple[ApartBy, ...] = ()
    bucket_s: int = 0
    models: tuple[ModelId, ...] = ()
    keys: tuple[KeyId, ...] = ()
    machines: tuple[MachineId, ...] = ()
    after: After | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class SumsPage(Generic[Sum]):
    """Sums in the order of their pages. `after` is where the next one goes on, None at the end."""

    stretch: Stretch
    sums: tuple[Sum, ...]
    after: After | None


WorkPage = SumsPage[WorkSum]
UsePage = SumsPage[UseSum]
