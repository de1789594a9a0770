"""Hard filters: which Macs cannot take a request now. The name of a filter is the reason.

Each looks at all candidates at once. The first filter that says no names the Mac's
reason, so the order goes from what lasts to what passes by itself. Adding a filter is a
function and a line in `FILTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from market.policy.ask import SUSPECT_AFTER_S, Ask
from market.policy.fleet import LOST, STATE_CODE, BoolArray, Candidates, IntArray


@dataclass(frozen=True, slots=True)
class Filter:
    """`passes` is True where a Mac may be used. `phrase` follows a count in a message.

    `lasting`: waiting in the queue cannot help; someone has to change something first.
    """

    name: str
    phrase: str
    lasting: bool
    passes: Callable[[Candidates, Ask], BoolArray]


def slots_needed(candidates: Candidates, ask: Ask) -> IntArray:
    """Slots to reserve on each Mac: one per choice, at most all that the Mac has."""
    return np.minimum(ask.n, np.maximum(candidates.slots, 1))


def _is(candidates: Candidates, state: str) -> BoolArray:
    same: BoolArray = candidates.state == STATE_CODE[state]
    return same


def _not_excluded(candidates: Candidates, ask: Ask) -> BoolArray:
    allowed = np.ones(len(candidates), dtype=np.bool_)
    for machine in ask.excluded:
        allowed &= candidates.machine != machine
    return allowed


def _context(candidates: Candidates, ask: Ask) -> BoolArray:
    return candidates.context_tokens >= ask.prompt_tokens + ask.max_tokens


def _memory(candidates: Candidates, ask: Ask) -> BoolArray:
    tokens = ask.prompt_tokens + ask.n * ask.max_tokens
    needed = candidates.weight_bytes + candidates.kv_bytes_per_token * tokens
    fits: BoolArray = (candidates.memory_bytes == 0) | (needed <= candidates.memory_bytes)
    return fits


def _not_stopped(candidates: Candidates, _ask: Ask) -> BoolArray:
    return ~_is(candidates, "stopped")


def _not_draining(candidates: Candidates, _ask: Ask) -> BoolArray:
    leaving = _is(candidates, "draining") | _is(candidates, "drained")
    return ~(candidates.draining | leaving)


def _not_lost(candidates: Candidates, _ask: Ask) -> BoolArray:
    here: BoolArray = candidates.state != LOST
    return here


def _not_failing(candidates: Candidates, _ask: Ask) -> BoolArray:
    return ~_is(candidates, "failing")


def _not_starting(candidates: Candidates, _ask: Ask) -> BoolArray:
    return ~_is(candidates, "starting")


def _heard_from(candidates: Candidates, ask: Ask) -> BoolArray:
    return ask.now_s - candidates.last_beat_s <= SUSPECT_AFTER_S


def _not_cooling(candidates: Candidates, ask: Ask) -> BoolArray:
    """After a cool-down one request at a time probes a Mac until one has succeeded."""
    cooled = ask.now_s >= candidates.cooling_until_s
    probing = (candidates.cooling_until_s > 0) & (candidates.in_flight > 0)
    return cooled & ~probing


def _not_collecting(candidates: Candidates, ask: Ask) -> BoolArray:
    if ask.collector is None:
        return ~candidates.collecting
    own: BoolArray = candidates.machine == ask.collector
    return ~candidates.collecting | own


def _slot_free(candidates: Candidates, ask: Ask) -> BoolArray:
    busy = candidates.in_flight
    if ask.rebuilding:
        busy = np.maximum(busy, candidates.reported)
    return busy + slots_needed(candidates, ask) <= candidates.slots


FILTERS: tuple[Filter, ...] = (
    Filter("excluded", "already tried", True, _not_excluded),
    Filter("context", "with too small a context", True, _context),
    Filter("memory", "with too little memory for it", True, _memory),
    Filter("stopped", "stopped", True, _not_stopped),
    Filter("draining", "draining", True, _not_draining),
    Filter("lost", "lost", False, _not_lost),
    Filter("failing", "failing", False, _not_failing),
    Filter("starting", "starting", False, _not_starting),
    Filter("suspect", "silent", False, _heard_from),
    Filter("cooling_down", "cooling down after failures", False, _not_cooling),
    Filter("collecting", "kept free for a request of several choices", False, _not_collecting),
    Filter("no_slot", "busy", False, _slot_free),
)
LASTING: frozenset[str] = frozenset(f.name for f in FILTERS if f.lasting)
PHRASES: dict[str, str] = {f.name: f.phrase for f in FILTERS}


def reasons_in_words(counts: dict[str, int]) -> str:
    """The counts in the order of the filters: `2 draining, 1 starting`."""
    parts = [f"{counts[f.name]} {f.phrase}" for f in FILTERS if counts.get(f.name)]
    return ", ".join(parts)
