"""What no Mac can be: readings that are impossible put a Mac in quarantine, not in the way.

A fault, a bad clock or a lie; whichever it is, nothing that follows from such a reading can be
trusted, so the Mac gets no work until its readings make sense again, and nothing of what it said
is kept: a number that is none would stop whoever reckons with it next.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from market.hardware import GIB
from market.policy.columns import PLACES
from market.policy.preferences import TRUST
from market.provider_state import STATES
from market.routing.messages import Place, ProviderBeat
from market.types import EngineStats, Hardware, ModelFacts

MEMORY_GB_MAX = 1024
"""No Mac has more; the largest is half of it."""

CORES_MAX = 1024
BANDWIDTH_GBS_MAX = 10_000
LOAD_BYTES_PER_S_MAX = 1e12
SLOTS_MAX = 1024
SEQUENCES_MAX = 100_000

PLACES_MAX = 256
"""Models on one Mac: each is a column of the fleet, and is looked at with each beat."""

NAME_CHARS_MAX = 256
"""Of a chip, a model, a digest or a quantisation: they are kept, and shown to people."""

CONTEXT_TOKENS_MAX = 2**30
KV_BYTES_PER_TOKEN_MAX = 2**30
VOCAB_SIZE_MAX = 2**30
COUNTER_MAX = 2**53
"""Beyond it a number is no longer exact where it is reckoned with."""

SPEEDUP_MAX = 4.0
"""How many times faster than its memory can deliver the weights a Mac may claim to decode.

Batches share one reading of the weights, mixtures read a part of them, and tables err; four
times what all that explains is a lie.
"""

SMALL_BYTES = 1_000_000_000
"""Below this a model fits in caches, and memory says nothing about its speed."""


def impossible(beat: ProviderBeat) -> str | None:
    """What is wrong with this declaration, in words; None when nothing is."""
    wrong = _of_the_mac(beat)
    if wrong is not None:
        return wrong
    for place in beat.places:
        if (wrong := _of_a_place(beat.hardware, place)) is not None:
            return f"of {place.model[:NAME_CHARS_MAX]} {wrong}"
    for facts in beat.models:
        if (wrong := _of_a_model(beat.hardware, facts)) is not None:
            return f"of {facts.model[:NAME_CHARS_MAX]} {wrong}"
    if beat.stats is not None:
        return _of_an_engine(beat.stats) or _too_fast(beat, beat.stats)
    return None


def scrubbed(beat: ProviderBeat) -> ProviderBeat:
    """Who it is and where it can be reached, without anything it has read."""
    return replace(
        beat,
        hardware=Hardware(beat.hardware.chip[:NAME_CHARS_MAX], 0, 0, 0, 0.0),
        reason=beat.reason[:NAME_CHARS_MAX],
        name=beat.name[:NAME_CHARS_MAX],
        models=(),
        stats=None,
        uptime_s=0.0,
        places=(),
        memory_bytes=0,
        load_bytes_per_s=0.0,
        ask_pct=100,
        trust=TRUST[0],
        allowed=(),
    )


def _of_the_mac(beat: ProviderBeat) -> str | None:
    hardware = beat.hardware
    if not 0 < hardware.memory_gb <= MEMORY_GB_MAX:
        return f"it says it has {hardware.memory_gb} GB of memory"
    if not 0 <= hardware.bandwidth_gbs <= BANDWIDTH_GBS_MAX:
        return f"it says its memory bandwidth is {hardware.bandwidth_gbs} GB/s"
    cores = (hardware.gpu_cores, hardware.cpu_cores)
    if not all(0 <= count <= CORES_MAX for count in cores):
        return f"it says it has {cores[0]} and {cores[1]} cores"
    if not _short(hardware.chip, beat.name):
        return "its name, or its chip's, is too long to be one"
    if beat.state not in STATES:
        return f"it says its state is {beat.state[:20]!r}"
    if not 1 <= beat.ask_pct <= 100:
        return f"it asks {beat.ask_pct} % of the market's price"
    if beat.trust not in TRUST:
        return f"it says its trust is {beat.trust[:20]!r}"
    if not 0 <= beat.memory_bytes <= hardware.memory_gb * GIB:
        return f"it plans with {beat.memory_bytes} bytes of its {hardware.memory_gb} GB"
    if not 0 <= beat.load_bytes_per_s <= LOAD_BYTES_PER_S_MAX:
        return f"it says it loads {beat.load_bytes_per_s} bytes/s"
    if not 0 <= beat.uptime_s < inf:
        return f"it says it has run for {beat.uptime_s} s"
    count = max(len(beat.places), len(beat.models), len(beat.allowed))
    return f"it names {count} models" if count > PLACES_MAX else None


def _short(*names: str) -> bool:
    return all(len(name) <= NAME_CHARS_MAX for name in names)


def _of_a_place(hardware: Hardware, place: Place) -> str | None:
    if place.state not in PLACES:
        return f"it says its place is {place.state[:20]!r}"
    if not 0 <= place.since_s < inf:
        return f"it says it has been {place.state} for {place.since_s} s"
    if not _short(place.model):
        return f"the name has {len(place.model)} characters"
    wrong = _of_a_model(hardware, place.facts) if place.facts is not None else None
    return wrong or (_of_an_engine(place.stats) if place.stats is not None else None)


def _of_a_model(hardware: Hardware, facts: ModelFacts) -> str | None:
    if not 0 <= facts.weight_bytes <= hardware.memory_gb * GIB:
        return f"it says the weights take {facts.weight_bytes} bytes"
    if not 0 <= facts.kv_bytes_per_token <= KV_BYTES_PER_TOKEN_MAX:
        return f"it says a token takes {facts.kv_bytes_per_token} bytes"
    if not 0 <= facts.context_tokens <= CONTEXT_TOKENS_MAX:
        return f"it says the context is {facts.context_tokens} tokens"
    if not 0 <= facts.vocab_size <= VOCAB_SIZE_MAX:
        return f"it says there are {facts.vocab_size} different tokens"
    if not _short(facts.model, facts.digest, facts.quantization):
        return "a name is too long to be one"
    return None


def _of_an_engine(stats: EngineStats) -> str | None:
    if not (0 <= stats.decode_tps < inf and 0 <= stats.prefill_tps < inf):
        return f"its speeds are {stats.decode_tps} and {stats.prefill_tps} tokens/s"
    if not 0 <= stats.slots <= SLOTS_MAX:
        return f"it offers {stats.slots} slots"
    if not (0 <= stats.running <= SEQUENCES_MAX and 0 <= stats.waiting <= SEQUENCES_MAX):
        return f"it says {stats.running} sequences run and {stats.waiting} wait"
    used, budget = stats.memory_bytes_used, stats.memory_bytes_budget
    if not (0 <= used <= COUNTER_MAX and 0 <= budget <= COUNTER_MAX):
        return f"its memory is {used} of {budget} bytes"
    counters = (
        stats.steps,
        stats.prompt_tokens,
        stats.completion_tokens,
        stats.cached_tokens,
        stats.cache_bytes,
        stats.cancelled,
        stats.failed,
    )
    if not all(0 <= counter <= COUNTER_MAX for counter in counters):
        return f"its counters are {', '.join(map(str, counters))}"
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
