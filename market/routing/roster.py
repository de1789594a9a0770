"""Which Macs there are supposed to be, and what people call them.

The router's view of a Mac ends half a minute after its last beat; its operator's does not: a Mac
that is away is still drained, pinned and missed. Whoever is declared (by settings, or by a
node's labels) or was heard within `KEPT_S` is on the roster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from market.errors import InvalidRequest, NotFound
from market.routing.messages import ProviderBeat
from market.routing.names import NAME_CHARS_MAX, clean
from market.settings import MacSettings
from market.types import MachineId, ProviderId

KEPT_S = 7 * 86_400.0
"""A Mac that nobody declares and that was silent for so long is forgotten."""

ROSTER_MAX = 10_000
"""Macs remembered; beyond this the ones that were silent longest are forgotten."""

NAMED_MAX = 8
"""Macs that an error names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class KnownMac:
    """One Mac by its three names. `heard_s` is its last sign of life, None for none yet.

    `declared` says that somebody wants it here: it is missed when it is away.
    """

    machine: MachineId
    provider: ProviderId
    name: str = ""
    chip: str = ""
    memory_gb: int = 0
    heard_s: float | None = None
    declared: bool = False

    @property
    def called(self) -> str:
        """How people are told of it."""
        return self.name or self.provider or self.machine

    def shifted(self, by_s: float) -> KnownMac:
        """The same on another clock."""
        return self if self.heard_s is None else replace(self, heard_s=self.heard_s + by_s)


class Roster:
    """All Macs of one router, here or away. `kept` are those it knew before it restarted."""

    def __init__(self, kept: Iterable[KnownMac] = ()) -> None:
        self._macs = {mac.machine: mac for mac in kept}
        self._declared: tuple[MacSettings, ...] = ()
        self._complete = False
        self._changed: set[MachineId] = set()

    def __iter__(self) -> Iterator[KnownMac]:
        return iter(self._macs.values())

    def get(self, machine: MachineId) -> KnownMac | None:
        return self._macs.get(machine)

    # ── what happens ──────────────────────────────────────────────────────────────────

    def declare(self, macs: Sequence[MacSettings], *, complete: bool) -> None:
        """These are wanted here; `complete`: and nobody else is missed when they are away."""
        wanted = tuple(macs)
        if wanted == self._declared and complete == self._complete:
            return
        self._declared, self._complete = wanted, complete
        here = {mac.machine: mac for mac in wanted}
        for machine, known in list(self._macs.items()):
            if known.declared and machine not in here:
                self._macs[machine] = replace(known, declared=False)
        for machine, mac in here.items():
            before = self._macs.get(machine)
            self._put(
                KnownMac(
                    machine,
                    mac.provider,
                    clean(mac.name),
                    mac.hardware.chip,
                    mac.hardware.memory_gb,
                    before.heard_s if before is not None else None,
                    declared=True,
                )
            )

    def saw(self, beat: ProviderBeat, now_s: float) -> None:
        """A Mac came, or came back."""
        before = self._macs.get(beat.machine)
        self._put(
            KnownMac(
                beat.machine,
                beat.provider,
                clean(beat.name) or (before.name if before is not None else ""),
                beat.hardware.chip,
                beat.hardware.memory_gb,
                now_s,
                declared=before is not None and before.declared,
            )
        )

    def heard(self, machine: MachineId, at_s: float) -> None:
        """Its last sign of life was then."""
        known = self._macs.get(machine)
        if known is not None:
            self._put(replace(known, heard_s=at_s))

    def forget(self, now_s: float) -> list[MachineId]:
        """Drop those that nobody wants and nobody heard of for long; who that was."""
        gone = [
            mac.machine
            for mac in self._macs.values()
            if not mac.declared and (mac.heard_s is None or now_s - mac.heard_s >= KEPT_S)
        ]
        silent = sorted(self._macs.values(), key=lambda mac: (mac.declared, mac.heard_s or 0.0))
        gone += [mac.machine for mac in silent[: max(len(silent) - ROSTER_MAX, 0)]]
        for machine in set(gone):
            del self._macs[machine]
            self._changed.discard(machine)
        return sorted(set(gone))

    def _put(self, mac: KnownMac) -> None:
        if self._macs.get(mac.machine) != mac:
            self._macs[mac.machine] = mac
            self._changed.add(mac.machine)

    def take_changed(self) -> list[KnownMac]:
        """Those that are to be remembered anew since the last call."""
        changed, self._changed = self._changed, set()
        return [self._macs[machine] for machine in sorted(changed)]

    def keep(self, machines: Iterable[MachineId]) -> None:
        """These could not be remembered: they count as changed again."""
        self._changed |= {machine for machine in machines if machine in self._macs}

    # ── asking ────────────────────────────────────────────────────────────────────────

    def missed(self, here: set[MachineId]) -> list[KnownMac]:
        """Those that should be here and are not."""
        return [
            mac
            for mac in self._macs.values()
            if mac.machine not in here and (mac.declared or not self._complete)
        ]

    def find(self, text: str, here: set[MachineId], intended: Iterable[MachineId] = ()) -> KnownMac:
        """The Mac that this name, public id or machine id means, whole or as the only one that
        begins so. `intended` are machines that an order names, known otherwise or not.

        Raises NotFound naming what there is, InvalidRequest naming all that it could mean.
        """
        listed = {mac.machine: mac for mac in self._macs.values() if mac.machine in here}
        listed |= {mac.machine: mac for mac in self.missed(here)}
        for machine in intended:
            listed.setdefault(machine, self._macs.get(machine) or _stranger(machine))
        macs = sorted(listed.values(), key=lambda mac: mac.called)
        wanted = text.strip().casefold()
        found = [mac for mac in macs if wanted in _names(mac)]
        if not found and wanted:
            found = [mac for mac in macs if any(name.startswith(wanted) for name in _names(mac))]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidRequest(
                f"{_quoted(text)} could mean {_listed(found)}. Write more of the name, or an id.",
                "machine",
                "ambiguous_machine",
            )
        raise NotFound(_unknown(text, macs), "machine", "machine_not_found")


def _names(mac: KnownMac) -> tuple[str, ...]:
    every = (mac.name, mac.provider, mac.machine)
    return tuple(name.casefold() for name in every if name)


def _stranger(machine: MachineId) -> KnownMac:
    """A machine that only an order names."""
    return KnownMac(machine, ProviderId(""))


def _unknown(text: str, macs: Sequence[KnownMac]) -> str:
    said = f"There is no Mac {_quoted(text)}"
    if not macs:
        return f"{said}: no Mac has come yet (coster fleet)."
    names = {name: mac for mac in macs for name in _names(mac)}
    near = get_close_matches(text.strip().casefold()[:NAME_CHARS_MAX], list(names), NAMED_MAX)
    close = list({names[name].machine: names[name] for name in near}.values())
    if close:
        return f"{said}; did you mean {_listed(close)}?"
    return f"{said}. There are {_listed(macs)}."


def _listed(macs: Sequence[KnownMac]) -> str:
    shown = ", ".join(_told(mac) for mac in macs[:NAMED_MAX])
    more = len(macs) - NAMED_MAX
    return f"{shown} and {more} more (coster fleet --all)" if more > 0 else shown


def _told(mac: KnownMac) -> str:
    if mac.name and mac.provider:
        return f"{mac.name} ({mac.provider})"
    return mac.called


def _quoted(text: str) -> str:
    return repr(text if len(text) <= NAME_CHARS_MAX else f"{text[:NAME_CHARS_MAX]}…")
