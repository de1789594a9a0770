"""What no Mac can be: readings that are impossible put a Mac in quarantine, not in the way.

A fault, a bad clock or a lie; whichever it is, nothing that follows from such a reading can be
trusted, so the Mac gets no work until its readings make sense again.
"""

from __future__ import annotations

from math import isfinite

from market.hardware import GIB
from market.policy.preferences import TRUST
from market.routing.messages import ProviderBeat
from market.types import EngineStats

MEMORY_GB_MAX = 1024
"""No Mac has more; the largest is half of it."""

SLOTS_MAX = 1024
SEQUENCES_MAX = 100_000

SPEEDUP_MAX = 4.0
"""How many times faster than its memory can deliver the weights a Mac may claim to decode.

Batches share one reading of the weights, mixtures read a part of them, and tables err; four
times what all that explains is a lie.
"""

SMALL_BYTES = 1_000_000_000
"""Below this a model fits in caches, and memory says nothing about its speed."""


def impossible(beat: ProviderBeat) -> str | None:
    """What is wrong with this declaration, in words; None when nothing is."""
    hardware = beat.hardware
    if not 0 < hardware.memory_gb <= MEMORY_GB_MAX:
        return f"it says it has {hardware.memory_gb} GB of memory"
    if not (isfinite(hardware.bandwidth_gbs) and 0 <= hardware.bandwidth_gbs <= 10_000):
        return f"it says its memory bandwidth is {hardware.bandwidth_gbs} GB/s"
    if not 1 <= beat.ask_pct <= 100:
        return f"it asks {beat.ask_pct} % of the market's price"
    if beat.trust not in TRUST:
        return f"it says its trust is {beat.trust[:20]!r}"
    if beat.memory_bytes > hardware.memory_gb * GIB:
        return f"it plans with more memory than its {hardware.memory_gb} GB"
    for place in beat.places:
        if place.stats is not None and (wrong := _wrong(place.stats)):
            return f"of {place.model} {wrong}"
        if place.facts is not None and not _sizes_fit(beat, place.facts.weight_bytes):
            return f"of {place.model} it says the weights take {place.facts.weight_bytes} bytes"
    if beat.stats is not None:
        return _wrong(beat.stats) or _too_fast(beat, beat.stats)
    return None


def _sizes_fit(beat: ProviderBeat, weight_bytes: int) -> bool:
    return 0 <= weight_bytes <= beat.hardware.memory_gb * GIB


def _wrong(stats: EngineStats) -> str | None:
    rates = (stats.decode_tps, stats.prefill_tps)
    if not all(isfinite(rate) and rate >= 0 for rate in rates):
        return f"its speeds are {stats.decode_tps} and {stats.prefill_tps} tokens/s"
    if not 0 <= stats.slots <= SLOTS_MAX:
        return f"it offers {stats.slots} slots"
    if not (0 <= stats.running <= SEQUENCES_MAX and 0 <= stats.waiting <= SEQUENCES_MAX):
        return f"it says {stats.running} sequences run and {stats.waiting} wait"
    if stats.memory_bytes_used < 0 or stats.memory_bytes_budget < 0:
        return "its memory is negative"
    return None


def _too_fast(beat: ProviderBeat, stats: EngineStats) -> str | None:
    """Decoding reads the weights once a step: a batch cannot be faster than that by far."""
    smallest = min((facts.weight_bytes for facts in beat.models), default=0)
    if smallest < SMALL_BYTES or stats.running == 0 or beat.hardware.bandwidth_gbs == 0:
        return None
    # A mixture reads as little as a tenth of its weights for one token.
    most = SPEEDUP_MAX * 10 * stats.running * beat.hardware.bandwidth_gbs * 1e9 / smallest
    if stats.decode_tps > most:
        return f"it says it decodes {stats.decode_tps:.0f} tokens/s; its memory allows {most:.0f}"
    return None
