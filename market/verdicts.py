"""How a Mac stands, in one word, one reason and one thing to do.

The same function serves the command line, the API and the pages, so that they can never
disagree about a Mac.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Word = Literal["EARNING", "REDUCED", "NOT EARNING", "OFFLINE"]
Attention = Literal["needed", "wait", "none"]
"""`needed`: somebody has to do something. `wait`: it was meant so, or passes by itself."""

_WORDS: Final = ("NOT EARNING", "REDUCED", "OFFLINE", "EARNING")
_UNITS: Final = (("s", 1, 119.5), ("min", 60, 2 * 3_600 - 30), ("h", 3_600, 48 * 3_600 - 1_800))
_ATTENTIONS: Final = ("needed", "wait", "none")


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to judge by. Empty texts and zeros are "nothing"."""

    standing: str  # a name of market.policy.columns.STANDINGS
    reason: str = ""  # what the Mac itself says of its state
    drain: str = ""
    quarantine: str = ""
    silent_s: float | None = 0.0  # None: it was not heard since the router began
    suspect: bool = False
    cooling_s: float = 0.0
    cap: int = 0
    slots: int = 0
    ready: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()  # (model, why)
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` says whether it earns, `reason` why, `fix` what would change that ("" for nothing)."""

    word: Word
    reason: str
    fix: str = ""
    attention: Attention = "needed"

    def as_json(self) -> dict[str, str]:
        return {
            "verdict": self.word,
            "reason": self.reason,
            "fix": self.fix,
            "attention": self.attention,
        }


def urgency(attention: Attention, word: Word) -> tuple[int, int]:
    """Sorts what somebody should look at first to the front."""
    return _ATTENTIONS.index(attention), _WORDS.index(word)


def judge(mac: Standing) -> Verdict:
    """The worst thing first; a Mac that only waits for work is earning."""
    return _gone(mac) or _stopped_working(mac) or _cannot_serve(mac) or _works(mac)


def _gone(mac: Standing) -> Verdict | None:
    drained = f" It is drained, too ({mac.drain})." if mac.drain else ""
    if mac.standing == "lost":
        heard = "It has not been heard since the router began"
        if mac.silent_s is not None:
            heard = f"It was last heard {span(mac.silent_s)} ago"
        return Verdict(
            "OFFLINE",
            f"{heard} ({mac.reason or 'no beat'}).{drained}",
            "Wake it, or start its provider again.",
        )
    if mac.standing == "stopped":
        return Verdict(
            "OFFLINE", f"It was stopped ({mac.reason}).{drained}", "Start its provider.", "wait"
        )
    return None


def _stopped_working(mac: Standing) -> Verdict | None:
    if mac.standing == "quarantined":
        return Verdict(
            "NOT EARNING",
            f"Its readings are impossible: {mac.quarantine}.",
            "Restart its provider; it is taken back a minute after its readings make sense.",
        )
    if mac.standing == "draining":
        why = mac.drain or mac.reason or "asked by its owner"
        left = f"; {requests(mac.in_flight)} left" if mac.in_flight else ""
        return Verdict("NOT EARNING", f"It is drained ({why}){left}.", "coster undrain it.", "wait")
    if mac.standing == "failing":
        return Verdict("NOT EARNING", mac.reason or "Its engine fails.", "See its provider's log.")
    if mac.suspect:
        return Verdict(
            "NOT EARNING",
            f"It has been silent for {mac.silent_s or 0.0:.1f} s.",
            "Check its network; it is taken back with its next beat.",
        )
    if mac.cooling_s > 0:
        return Verdict(
            "NOT EARNING",
            f"It failed or refused several requests in a row; it is tried again in "
            f"{mac.cooling_s:.0f} s.",
            "See its provider's log for what failed.",
        )
    return None


def _cannot_serve(mac: Standing) -> Verdict | None:
    if mac.ready:
        return None
    if mac.loading:
        return Verdict("NOT EARNING", f"It is loading {', '.join(mac.loading)}.", "Wait.", "wait")
    if mac.failed:
        model, why = mac.failed[0]
        return Verdict(
            "NOT EARNING", f"{model} could not be loaded: {why}.", "Fix that, then wait."
        )
    if mac.standing == "starting":
        return Verdict("NOT EARNING", mac.reason or "It is starting.", "Wait.", "wait")
    return Verdict(
        "NOT EARNING",
        "It has no model: none that is asked for fits, or none is planned for it.",
        "coster placement says why; pin one with coster placement pin.",
    )


def _works(mac: Standing) -> Verdict:
    if 0 < mac.cap < mac.slots:
        return Verdict(
            "REDUCED",
            f"It refused requests beyond {mac.cap} at a time and is given a slot more a minute.",
            "Free memory on it, or lower its slots.",
        )
    if mac.failed:
        model, why = mac.failed[0]
        return Verdict(
            "REDUCED", f"It serves, but {model} could not be loaded: {why}.", "Fix that."
        )
    busy = requests(mac.in_flight) if mac.in_flight else "waiting for work"
    return Verdict("EARNING", f"{busy}, with {', '.join(mac.ready)}.", "", "none")


def requests(count: int) -> str:
    """So many requests, as people say it."""
    return "1 request" if count == 1 else f"{count} requests"


def span(seconds: float) -> str:
    """So much time, as people say it: `70 s`, `95 min`, `30 h`, `4 days`."""
    for unit, length_s, until_s in _UNITS:
        if seconds < until_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
