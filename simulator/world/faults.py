"""What goes wrong with Macs, when, and for how long: each Mac has a stream of its own.

Rates are per Mac and hour. Every fault is one that a market of other people's machines meets:
a process that dies, an engine that hangs, a laptop that gets hot, an owner who comes back, a
network that is cut, beats that come late, and Macs that say they are faster than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from simulator.world.kernel import Kernel
from simulator.world.stand import Stand

HOUR_S = 3600.0

RESTART_S = 5.0
"""Until a crashed provider beats again; it has to load its models then."""

LINK_DEAD_S = 6.0
"""A connection on which nothing comes is given up by both sides after this long."""


@dataclass(frozen=True, slots=True)
class Faults:
    """`…_per_hour` are means of Poisson processes, one per Mac; the others say how bad it is.

    `lying_share` of the Macs say they decode `lying_factor` times faster than they do. A
    `correlated` outage takes `correlated_share` of the fleet at once.
    """

    crash_per_hour: float = 0.0
    hang_per_hour: float = 0.0
    hang_s: float = 60.0
    slow_per_hour: float = 0.0
    slow_factor: float = 1.6
    slow_minutes: float = 10.0
    owner_returns_per_hour: float = 0.0
    owner_minutes: float = 20.0
    partition_per_hour: float = 0.0
    partition_s: float = 20.0
    stale_beats_s: float = 0.0
    lying_share: float = 0.0
    lying_factor: float = 5.0
    correlated_per_hour: float = 0.0
    correlated_share: float = 0.3


NO_FAULTS = Faults()


class Misfortune:
    """Lets faults happen to the Macs of one run."""

    def __init__(
        self,
        kernel: Kernel,
        faults: Faults,
        stands: Iterable[Stand],
        stream: Callable[[str], np.random.Generator],
        lost: Callable[[Stand, str], None],
        stalled: Callable[[Stand], None],
        over: Callable[[], bool],
    ) -> None:
        """`lost` tells the router of a death, `stalled` the gateway of silence."""
        self._kernel = kernel
        self._faults = faults
        self._stands = list(stands)
        self._stream = stream
        self._lost = lost
        self._stalled = stalled
        self._over = over

    def begin(self) -> None:
        """Plan the first of everything."""
        faults = self._faults
        kinds: tuple[tuple[str, float, Callable[[Stand, np.random.Generator], None]], ...] = (
            ("crash", faults.crash_per_hour, self._crash),
            ("hang", faults.hang_per_hour, self._hang),
            ("slow", faults.slow_per_hour, self._slow),
            ("owner", faults.owner_returns_per_hour, self._owner),
            ("partition", faults.partition_per_hour, self._partition),
        )
        for stand in self._stands:
            for name, rate, happen in kinds:
                if rate > 0:
                    stream = self._stream(f"fault:{name}:{stand.number}")
                    self._plan(stand, rate, stream, happen)
        if faults.lying_share > 0:
            chosen = self._stream("fault:lying")
            for stand in self._stands:
                if chosen.random() < faults.lying_share:
                    stand.claims = faults.lying_factor
        if faults.correlated_per_hour > 0:
            self._plan_outage(self._stream("fault:correlated"))

    def _plan(
        self,
        stand: Stand,
        rate: float,
        stream: np.random.Generator,
        happen: Callable[[Stand, np.random.Generator], None],
    ) -> None:
        def strike() -> None:
            if self._over():
                return
            if stand.here and not stand.cut:
                happen(stand, stream)
            self._plan(stand, rate, stream, happen)

        self._kernel.after(stream.exponential(HOUR_S / rate), strike)

    def _plan_outage(self, stream: np.random.Generator) -> None:
        def strike() -> None:
            if self._over():
                return
            for stand in self._stands:
                if stream.random() < self._faults.correlated_share and stand.here:
                    self._crash(stand, stream)
            self._plan_outage(stream)

        self._kernel.after(stream.exponential(HOUR_S / self._faults.correlated_per_hour), strike)

    # ── what happens ──────────────────────────────────────────────────────────────────

    def _crash(self, stand: Stand, _stream: np.random.Generator) -> None:
        stand.go()
        self._lost(stand, "its process ended")
        self._kernel.after(RESTART_S, stand.come)

    def _owner(self, stand: Stand, stream: np.random.Generator) -> None:
        """The owner wants the Mac back at once, and gives it back later."""
        stand.go()
        self._lost(stand, "its owner came back")
        minutes = stream.exponential(self._faults.owner_minutes)
        self._kernel.after(minutes * 60.0, stand.come)

    def _hang(self, stand: Stand, _stream: np.random.Generator) -> None:
        """The engine makes no step; the beats go on as if nothing were."""
        stand.mac.freeze(True)
        self._stalled(stand)
        self._kernel.after(self._faults.hang_s, self._thaw, stand, stand.incarnation)

    def _thaw(self, stand: Stand, incarnation: int) -> None:
        if stand.incarnation == incarnation and stand.here:
            stand.mac.freeze(False)

    def _slow(self, stand: Stand, _stream: np.random.Generator) -> None:
        """Hot, or its owner compiles something: everything takes longer for a while."""
        stand.mac.heat(self._faults.slow_factor)
        self._kernel.after(self._faults.slow_minutes * 60.0, stand.mac.heat, 1.0)

    def _partition(self, stand: Stand, _stream: np.random.Generator) -> None:
        """Nothing comes through either way; what runs there is lost once that is noticed."""
        stand.cut = True
        self._kernel.after(LINK_DEAD_S, self._give_up, stand, stand.incarnation)
        self._kernel.after(self._faults.partition_s, self._heal, stand)

    def _give_up(self, stand: Stand, incarnation: int) -> None:
        if stand.incarnation == incarnation and stand.here:
            stand.lose_jobs()

    def _heal(self, stand: Stand) -> None:
        stand.cut = False
        stand.changed = True
