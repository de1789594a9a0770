"""What a caller may ask of the Macs that serve a request.

Hard wishes rule Macs out, each under its own name, so that a refusal can say which of them
left none. Soft ones only reorder: they never empty the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from market.types import MachineId, ProviderId

Sort = Literal["price", "latency", "throughput"]
Own = Literal["self", "prefer"]
TRUST: Final = ("basic", "verified")
"""Tiers of trust, the lower first: software-attested, hardware-attested."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """Hard: `only`, `ignore`, the price ceilings, `trust`, `quantizations`, own machines only
    (`self`), and `order` without `allow_fallbacks`. Soft: `order`, `sort`, the `preferred_…`
    values, own machines first (`prefer`).

    Prices are nano-USD per token. `own_machines` are the caller's, filled in by the market.
    """

    order: tuple[ProviderId, ...] = ()
    only: tuple[ProviderId, ...] = ()
    ignore: tuple[ProviderId, ...] = ()
    allow_fallbacks: bool = True
    sort: Sort | None = None
    max_price_in_nano: int | None = None
    max_price_out_nano: int | None = None
    trust: str | None = None
    quantizations: tuple[str, ...] = ()
    preferred_max_latency_ms: float | None = None
    preferred_min_tps: float | None = None
    own: Own | None = None
    own_machines: tuple[MachineId, ...] = ()


NO_PREFERENCES: Final = Preferences()
