"""Hard filters: which Macs cannot take a request now. The name of a filter is the reason.

Each looks at all candidates at once, or says None where it rules nobody out and has nothing to
compute. The first filter that says no names the Mac's reason, so the order goes from what lasts
to what passes by itself. Adding a filter is a function and a line in `FILTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from market.policy.ask import SUSPECT_AFTER_S, Ask
from market.policy.candidates import BoolArray, Candidates, FloatArray, Name
from market.policy.columns import PLACES, STANDINGS
from market.policy.preferences import NO_PREFERENCES, TRUST

Kind = Literal["lasting", "wish", "passing"]
Group = Literal["", "wish", "odd", "place"]
CAP_GROWS_S = 60.0
"""A learned cap grows by one slot for each clean minute."""

SLOWEST_STEP_MS = 100.0
SLOWER_THAN_ALONE = 1.5
"""How slow a step may become before a Mac gets no more: ten tokens a second, which is faster than
people read, or half as long again as one request alone takes where that is slower."""

Passes = Callable[[Candidates, Ask], BoolArray | None]


@dataclass(frozen=True, slots=True)
class Filter:
    """`passes` is True where a Mac may be used, None everywhere. `phrase` follows a count in a
    message; `remedy` completes "it could be used if …".

    `lasting`: waiting in the queue cannot help; someone has to change something first.
    `wish`: the caller's own preferences rule the Mac out, and only the caller can change that.
    The filters of a `group` are skipped together when none of them can rule anyone out.
    """

    name: str
    phrase: str
    remedy: str
    kind: Kind
    passes: Passes
    group: Group = ""


def slots_needed(candidates: Candidates, ask: Ask) -> FloatArray | float:
    """Slots to reserve on each Mac: one per choice, at most all that the Mac has."""
    if ask.n == 1:
        return 1.0
    return np.minimum(ask.n, np.maximum(candidates["slots"], 1))


def _is_not(column: str, code: int) -> Passes:
    def passes(candidates: Candidates, _ask: Ask) -> BoolArray:
        different: BoolArray = candidates[column] != code
        return different

    return passes


def idle_groups(candidates: Candidates, ask: Ask) -> frozenset[str]:
    """The groups that rule nobody out for this request: most requests skip them all."""
    idle = ["wish"] if ask.preferences is NO_PREFERENCES else []
    idle += [name for name in ("odd", "place") if not candidates[name].any()]
    return frozenset(idle)


def _where(candidates: Candidates, good: Callable[[Name], bool]) -> BoolArray:
    return np.fromiter(map(good, candidates.who()), dtype=np.bool_, count=len(candidates))


# ── what lasts ────────────────────────────────────────────────────────────────────────


def _not_excluded(candidates: Candidates, ask: Ask) -> BoolArray | None:
    if not ask.excluded:
        return None
    tried = set(ask.excluded)
    return _where(candidates, lambda who: who.machine not in tried)


def _same_weights(candidates: Candidates, ask: Ask) -> BoolArray | None:
    return candidates["digest"] == ask.digest if ask.digest else None


def _context(candidates: Candidates, ask: Ask) -> BoolArray:
    # What is not known yet (0, while the model loads) rules nobody out.
    size = candidates["context_tokens"]
    fits: BoolArray = size >= ask.prompt_tokens + ask.max_tokens
    unknown: BoolArray = size == 0
    return fits | unknown


def _memory(candidates: Candidates, ask: Ask) -> BoolArray:
    """Whether it fits beside the weights when nothing else runs."""
    memory = candidates["memory_bytes"]
    needed = candidates["resident_bytes"] + candidates["kv_bytes_per_token"] * ask.most_tokens
    fits: BoolArray = needed <= memory
    unknown: BoolArray = memory == 0
    return fits | unknown


# ── what the caller wishes ────────────────────────────────────────────────────────────


def _only(candidates: Candidates, ask: Ask) -> BoolArray | None:
    wished = ask.preferences.only
    return _where(candidates, lambda who: who.provider in wished) if wished else None


def _not_ignored(candidates: Candidates, ask: Ask) -> BoolArray | None:
    ignored = ask.preferences.ignore
    return _where(candidates, lambda who: who.provider not in ignored) if ignored else None


def _in_order(candidates: Candidates, ask: Ask) -> BoolArray | None:
    wished = ask.preferences
    if not wished.order or wished.allow_fallbacks:
        return None
    return _where(candidates, lambda who: who.provider in wished.order)


def _own(candidates: Candidates, ask: Ask) -> BoolArray | None:
    if ask.preferences.own != "self":
        return None
    mine = ask.preferences.own_machines
    return _where(candidates, lambda who: who.machine in mine)


def _trusted(candidates: Candidates, ask: Ask) -> BoolArray | None:
    wished = ask.preferences.trust
    return candidates["trust"] >= TRUST.index(wished) if wished else None


def _quantized(candidates: Candidates, ask: Ask) -> BoolArray | None:
    if not ask.preferences.quantizations:
        return None
    return np.isin(candidates["quantization"], ask.quantizations)


def asked_prices(candidates: Candidates, price_nano: int) -> FloatArray:
    """What each Mac asks for a token that the market prices at `price_nano`, in nano-USD."""
    asked: FloatArray = np.ceil(price_nano * candidates["ask_pct"] / 100.0)
    return asked


def _affordable(candidates: Candidates, ask: Ask) -> BoolArray | None:
    wished = ask.preferences
    if wished.max_price_in_nano is None and wished.max_price_out_nano is None:
        return None
    passes = np.ones(len(candidates), dtype=np.bool_)
    for most, price in (
        (wished.max_price_in_nano, ask.price_in_nano),
        (wished.max_price_out_nano, ask.price_out_nano),
    ):
        if most is not None:
            passes &= asked_prices(candidates, price) <= most
    return passes


# ── what passes ───────────────────────────────────────────────────────────────────────


def _heard_from(candidates: Candidates, ask: Ask) -> BoolArray:
    fresh: BoolArray = candidates["last_beat_s"] >= ask.now_s - SUSPECT_AFTER_S
    return fresh


def _not_cooling(candidates: Candidates, ask: Ask) -> BoolArray:
    """After a cool-down one request at a time probes a Mac until one has succeeded."""
    until = candidates["cooling_until_s"]
    probing = (until > 0) & (candidates["in_flight"] > 0)
    return (ask.now_s >= until) & ~probing


def _not_collecting(candidates: Candidates, ask: Ask) -> BoolArray:
    collecting = candidates["collecting"]
    free: BoolArray = collecting == 0
    if ask.collector is None:
        return free
    return free | _where(candidates, lambda who: who.machine == ask.collector)


def effective_slots(candidates: Candidates, now_s: float) -> FloatArray:
    """Slots as far as the Mac has shown that it can use them."""
    slots, cap = candidates["slots"], candidates["cap"]
    if not cap.any():
        return slots
    grown = cap + np.floor((now_s - candidates["cap_since_s"]) / CAP_GROWS_S)
    return np.where(cap > 0, np.minimum(slots, np.maximum(grown, 1.0)), slots)


def _within_cap(candidates: Candidates, ask: Ask) -> BoolArray:
    # An idle Mac is never capped: then it could not show that it has recovered.
    free: BoolArray = (candidates["in_flight"] == 0) | (candidates["cap"] == 0)
    needed = candidates["in_flight"] + slots_needed(candidates, ask)
    within: BoolArray = needed <= effective_slots(candidates, ask.now_s)
    return free | within


def _memory_free(candidates: Candidates, ask: Ask) -> BoolArray:
    """Whether the worst case of all that was granted still leaves room for this one."""
    memory, reserved = candidates["memory_bytes"], candidates["kv_reserved_bytes"]
    wanted = candidates["kv_bytes_per_token"] * ask.most_tokens
    fits: BoolArray = candidates["resident_bytes"] + reserved + wanted <= memory
    free: BoolArray = (memory == 0) | (reserved == 0)
    return fits | free


def _slot_free(candidates: Candidates, ask: Ask) -> BoolArray:
    busy = candidates["in_flight"]
    if ask.rebuilding:
        busy = np.maximum(busy, candidates["reported"])
    free: BoolArray = busy + slots_needed(candidates, ask) <= candidates["slots"]
    return free


def _quick_enough(candidates: Candidates, ask: Ask) -> BoolArray | None:
    """Whether answers would come as fast as one wants to read, this one included. Beyond that a
    larger batch wins little, and whoever waits in the queue may still get a faster Mac.
    """
    if ask.request_class == "batch":
        return None
    factor = candidates["scale_step"] * candidates["bias_step"]
    alone_ms = candidates["step_1_ms"] * factor
    own_ms = (candidates["step_next_ms"] + candidates["kv_ms"] * candidates["context_sum"]) * factor
    step_ms = own_ms + candidates["busy_ms"] - candidates["own_ms"]
    idle: BoolArray = candidates["in_flight"] == 0
    quick: BoolArray = step_ms <= np.maximum(SLOWEST_STEP_MS, SLOWER_THAN_ALONE * alone_ms)
    return idle | quick


def _lasting(name: str, phrase: str, remedy: str, passes: Passes) -> Filter:
    return Filter(name, phrase, remedy, "lasting", passes)


def _wish(name: str, phrase: str, remedy: str, passes: Passes) -> Filter:
    return Filter(name, phrase, remedy, "wish", passes, "wish")


def _passing(name: str, phrase: str, remedy: str, passes: Passes, group: Group = "") -> Filter:
    return Filter(name, phrase, remedy, "passing", passes, group)


def _standing(name: str, phrase: str, remedy: str, kind: Kind) -> Filter:
    passes = _is_not("standing", STANDINGS.index(name))
    return Filter(name, phrase, remedy, kind, passes, "odd")


def _place(name: str, state: str, phrase: str, remedy: str, kind: Kind) -> Filter:
    passes = _is_not("place", PLACES.index(state))
    return Filter(name, phrase, remedy, kind, passes, "place")


FILTERS: tuple[Filter, ...] = (
    _lasting("excluded", "already tried", "it had not failed this request", _not_excluded),
    _lasting("digest", "with other weights", "it had the weights that began", _same_weights),
    _lasting("context", "with too small a context", "the request were shorter", _context),
    _lasting("memory", "with too little memory for it", "the request were shorter", _memory),
    _wish("not_only", "not among provider.only", "provider.only named it", _only),
    _wish("ignored", "ignored by you", "provider.ignore did not name it", _not_ignored),
    _wish("not_in_order", "not in provider.order", "fallbacks were allowed", _in_order),
    _wish("not_own", "not yours", "it were linked to your account", _own),
    _wish("trust", "trusted less than you ask", "provider.trust were lower", _trusted),
    _wish("quantization", "quantised otherwise", "its quantisation were allowed", _quantized),
    _wish("max_price", "above your max_price", "max_price were higher", _affordable),
    _standing("stopped", "stopped", "its owner started it", "lasting"),
    _standing("draining", "draining", "it were undrained", "lasting"),
    _standing("quarantined", "in quarantine", "its readings made sense", "lasting"),
    _place("load_failed", "failed", "that cannot load it", "the model loaded there", "lasting"),
    _standing("lost", "lost", "it came back", "passing"),
    _standing("failing", "failing", "its engine recovered", "passing"),
    _standing("starting", "starting", "it had started", "passing"),
    _place("loading", "loading", "loading it", "it had finished loading", "passing"),
    _place("leaving", "leaving", "unloading it", "the model were kept there", "passing"),
    _passing("suspect", "silent", "its beat came again", _heard_from),
    _passing(
        "cooling_down", "cooling down after failures", "its pause were over", _not_cooling, "odd"
    ),
    _passing(
        "collecting",
        "kept free for a request of several choices",
        "that request were served",
        _not_collecting,
        "odd",
    ),
    _passing(
        "capped", "at the load they cope with", "one of its requests ended", _within_cap, "odd"
    ),
    _passing("memory_busy", "with their memory in use", "one of its requests ended", _memory_free),
    _passing("no_slot", "busy", "one of its requests ended", _slot_free),
    _passing("slow", "as slow as they may get", "one of its requests ended", _quick_enough),
)
BY_NAME: dict[str, Filter] = {rule.name: rule for rule in FILTERS}
LASTING: frozenset[str] = frozenset(rule.name for rule in FILTERS if rule.kind != "passing")
WISHES: frozenset[str] = frozenset(rule.name for rule in FILTERS if rule.kind == "wish")
ROOM: frozenset[str] = frozenset(("capped", "memory_busy", "no_slot", "slow"))
"""Reasons that the end of a running request takes away."""


def reasons_in_words(counts: dict[str, int]) -> str:
    """The counts in the order of the filters: `2 draining, 1 starting`."""
    parts = [f"{counts[rule.name]} {rule.phrase}" for rule in FILTERS if counts.get(rule.name)]
    return ", ".join(parts)
