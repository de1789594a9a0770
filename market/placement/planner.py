"""The planner's mind between plans: what it has seen, when to plan, and what it has ordered.

A pure class around which an actor is a shell. Once a second it is shown the fleet; when `due`
says so, a case is taken, worked out beside (`market.placement.plan.work_out`, in a thread or a
process), and adopted. Orders are read at each beat of a Mac.

    observe(view) ─► due? ─► case() ─► work_out(case) ─► adopt(answer) ─► orders(machine)
                                        └ takes up to `solve_s`; nothing here waits for it

What it knows is soft: after a restart demand, rent and the swaps of the hour begin anew, while
what is loaded, and for how long, is declared by the Macs themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from market.errors import NotFound
from market.placement.adopting import Adopting
from market.placement.case import Case, Refusal, mask_of
from market.placement.demand import Demand
from market.placement.draft import unloads_max_of
from market.placement.explain import mac_as_json, macs_as_json, model_as_json, models_as_json
from market.placement.orders import Orders
from market.placement.permits import Office, ready_in_s
from market.placement.pins import Outlook, outlook_of
from market.placement.plan import Answer, Plan
from market.placement.problem import BoolArray
from market.placement.rent import Rent
from market.placement.shed import shed
from market.placement.tables import FAILED, LOADING, Tables, tables_of
from market.placement.view import FleetView, Pin
from market.settings import PlacementSettings
from market.types import MachineId, ModelId

URGENT_EVERY_S = 2.0
"""A model that requests wait for and no Mac has is planned for at once, then so often."""

CHANGED_EVERY_S = 1.0
"""Macs that come, go, finish a load or fail one: changes within a second make one plan."""

QUEUES_EVERY_S = 5.0
QUEUES_AFTER_S = 5.0
"""Requests that wait for so long, although copies exist, show that there are too few."""

PLANS_KEPT = 32
"""Plans that changed something, for whoever asks later what happened."""


class Planner:
    """Decides where models live, for one cell of Macs. Call it from one thread."""

    def __init__(self, settings: PlacementSettings, begins_s: float) -> None:
        """No plan is made before `begins_s`: by then all Macs have declared themselves."""
        self._settings = settings
        self._begins_s = begins_s
        self._demand = Demand()
        self._rent = Rent()
        self._orders = Orders()
        self._queued_since: dict[ModelId, float] = {}
        self._view: FleetView | None = None
        self._tables: Tables | None = None
        self._fleet: tuple[object, ...] = ()
        self._planned_fleet: tuple[object, ...] = ()
        self._under_way: Case | None = None
        self._planned_s = float("-inf")
        self._number = 0
        self._abandoned = ""
        self.last: Plan | None = None
        self.changed: deque[Plan] = deque(maxlen=PLANS_KEPT)

    # ── what happens ──────────────────────────────────────────────────────────────────

    def arrived(
        self, model: ModelId, prompt_tokens: float, completion_tokens: float, now_s: float
    ) -> None:
        """A request has come that is expected to say so much. Called for each one."""
        self._demand.arrived(model, prompt_tokens, completion_tokens, now_s)

    def begin(self, now_s: float) -> None:
        """Every Mac has declared itself: plans may be made from now on."""
        self._begins_s = min(self._begins_s, now_s)

    def observe(self, view: FleetView, now_s: float) -> None:
        """Look at the fleet; once a second."""
        view = self._orders.applied(view, now_s)
        names = [model.size.model for model in view.models]
        self._demand.keep(names)
        offered = {model: self._demand.offered(model, now_s) for model in names}
        tables = tables_of(view, offered, now_s)
        tables = shed(tables, mask_of(_pins(view, tables)[0], tables.place.shape))
        passed_s = now_s - self._tables.now_s if self._tables is not None else 0.0
        self._rent.pay(_waiting(tables), passed_s)
        queued = {names[at] for at in np.flatnonzero(tables.waiting > 0)}
        self._queued_since = {m: self._queued_since.get(m, now_s) for m in names if m in queued}
        self._view, self._tables = view, tables
        self._fleet = (
            tables.machines,
            tables.models,
            tables.open.tobytes(),
            tables.allowed.tobytes(),
            tables.ready.tobytes(),
            (tables.place == FAILED).tobytes(),
            tables.room.tobytes(),
            view.pins,
        )

    # ── when to plan ──────────────────────────────────────────────────────────────────

    def due(self, now_s: float) -> str:
        """Why a plan is to be made now; "" while there is no reason, or one is being made."""
        tables = self._tables
        if not self._settings.enabled or tables is None or not tables.place.size:
            return ""
        if self._under_way is not None or now_s < self._begins_s:
            return ""
        since_s = now_s - self._planned_s
        cold = np.flatnonzero((tables.waiting > 0) & ~tables.here.any(axis=0))
        if cold.size and since_s >= URGENT_EVERY_S:
            return f"requests wait for {tables.models[int(cold[0])]}, which no Mac has"
        if self._fleet != self._planned_fleet and since_s >= CHANGED_EVERY_S:
            return "the fleet has changed"
        if self._queueing(tables, now_s).any() and since_s >= QUEUES_EVERY_S:
            return "requests keep waiting for models that have copies"
        if since_s >= self._settings.every_s:
            return "time has passed"
        return ""

    def _queueing(self, tables: Tables, now_s: float) -> BoolArray:
        """Models with too few copies, as the queue shows, and none on its way."""
        long = [
            now_s - self._queued_since.get(model, now_s) >= QUEUES_AFTER_S
            for model in tables.models
        ]
        settled = (tables.ready.sum(axis=0) > 0) & ((tables.place == LOADING).sum(axis=0) == 0)
        queueing: BoolArray = np.array(long, dtype=bool) & settled
        return queueing

    # ── planning ──────────────────────────────────────────────────────────────────────

    def case(self, now_s: float) -> Case:
        """What is to be worked out now. Until it is adopted or abandoned, nothing is due."""
        cause = self.due(now_s) or "asked for"
        case = self.case_now(now_s, cause)
        self._number += 1
        self._under_way = case
        self._planned_s = now_s
        self._planned_fleet = self._fleet
        return case

    def case_now(self, now_s: float, cause: str = "asked for") -> Case:
        """The same without beginning a plan: what somebody who asks is answered from."""
        tables, view = self._tables, self._view
        if tables is None or view is None:
            raise AssertionError("observe the fleet before planning for it")
        left = [
            max(0, self._settings.swaps_per_hour - self._orders.swaps(machine, now_s))
            for machine in tables.machines
        ]
        pins, refused = _pins(view, tables)
        return Case(
            number=self._number + 1,
            cause=cause,
            tables=tables,
            settings=self._settings,
            paid=np.array([self._rent.paid(model) for model in tables.models]),
            swaps_left=np.array(left, dtype=np.int64),
            failed=tables.place == FAILED,
            pins=pins,
            queueing=self._queueing(tables, now_s),
            refused=refused,
        )

    def adopt(self, answer: Answer, now_s: float) -> Plan | None:
        """Order what still holds of an answer; None if it is not the one that was waited for."""
        case, tables = self._under_way, self._tables
        if case is None or tables is None or answer.draft.case.number != case.number:
            return None
        self._under_way = None
        if tables.models != case.tables.models:
            return None  # the fleet has changed, so that the next plan is due
        adopting = Adopting(answer, tables)
        for machine, models, swaps in adopting.orders:
            self._orders.give(machine, models, swaps, now_s)
        for model in adopting.bought:
            self._rent.bought(model)
        plan = adopting.plan(now_s)
        self.last = plan
        if plan.changes:
            self.changed.append(plan)
        self._abandoned = ""
        return plan

    def abandon(self, why: str) -> None:
        """The case could not be worked out; orders stay, and the next plan comes in its time."""
        self._under_way = None
        self._abandoned = why

    # ── orders ────────────────────────────────────────────────────────────────────────

    def orders(self, machine: MachineId, has: tuple[ModelId, ...]) -> tuple[ModelId, ...] | None:
        """What a Mac should have that now has or loads `has`: just that until a plan knows it.

        None where placement is switched off.
        """
        if not self._settings.enabled:
            return None
        wanted = self._orders.of(machine)
        return has if wanted is None else wanted

    def knows(self, machine: MachineId) -> bool:
        """Whether a plan has been made for this Mac, or none ever will."""
        return not self._settings.enabled or self._orders.of(machine) is not None

    @property
    def plans(self) -> int:
        """Plans begun so far."""
        return self._number

    @property
    def swaps(self) -> int:
        """Models ever ordered to give way to another one."""
        return self._orders.swapped_ever

    # ── telling ───────────────────────────────────────────────────────────────────────

    def ready_in_s(self, model: ModelId, now_s: float) -> float | None:
        """Seconds until a copy could serve, if requests go on waiting for it; None when no Mac
        that takes work could ever hold one.
        """
        tables = self._tables
        if not self._settings.enabled or tables is None or model not in tables.models:
            return None
        return ready_in_s(Office(self.case_now(now_s)), tables.models.index(model))

    def as_json(self, now_s: float) -> dict[str, Any]:
        """Everything that `coster placement` shows."""
        if self._tables is None:
            return {"enabled": self._settings.enabled, "plan": None}
        case = self.case_now(now_s)
        macs = self._view.macs if self._view is not None else ()
        return {
            "enabled": self._settings.enabled,
            "plan": self.last.as_json(now_s) if self.last is not None else None,
            "changed": [plan.as_json(now_s) for plan in self.changed],
            "being_made": self._under_way.cause if self._under_way is not None else "",
            "abandoned": self._abandoned,
            "swaps_this_hour": self._orders.swapped(now_s),
            "models": models_as_json(case),
            "macs": macs_as_json(case),
            "away": sorted(mac.machine for mac in macs if mac.standing == "away"),
        }

    def desired(self) -> dict[ModelId, int] | None:
        """Copies of each model that the Macs have been told to have; None before a plan."""
        if self.last is None or self._view is None:
            return None
        wanted = [self._orders.of(mac.machine) or () for mac in self._view.macs]
        names = [model.size.model for model in self._view.models]
        return {name: sum(name in models for models in wanted) for name in names}

    def outlook(self, pin: Pin, now_s: float, *, drained: bool = False) -> Outlook:
        """What would become of a pin if it were made now. Promises nothing.

        `drained`: the Mac is here, and takes nothing until it is undrained.
        """
        tables = self._tables
        if tables is None or pin.model not in tables.models:
            return Outlook(True, "it waits for the first plan")
        if pin.machine not in tables.machines:
            until = "undrained" if drained else "back"
            return Outlook(True, f"it waits until the Mac is {until}")
        place = (tables.machines.index(pin.machine), tables.models.index(pin.model))
        return outlook_of(self.case_now(now_s), place, unloads_max_of(tables))

    def mac_as_json(self, machine: MachineId, now_s: float) -> dict[str, Any] | None:
        """One Mac's room, its models and why they stay; None for one that no plan counts."""
        if self._tables is None or machine not in self._tables.machines:
            return None
        return mac_as_json(self.case_now(now_s), self._tables.machines.index(machine))

    def explain(self, model: ModelId, now_s: float) -> dict[str, Any]:
        """Where this model would be loaded next and what it would take.

        Raises NotFound for a model that is not on offer.
        """
        tables = self._tables
        if tables is None or model not in tables.models:
            raise NotFound(
                f"The market does not offer {model[:120]!r}.", "model", "model_not_found"
            )
        case = self.case_now(now_s)
        return model_as_json(case, Office(case), tables.models.index(model))


def _waiting(tables: Tables) -> dict[ModelId, float]:
    """Work that waits for a place: not for a copy that is on its way."""
    loading = (tables.place == LOADING).any(axis=0)
    columns = np.flatnonzero((tables.waiting_work > 0) & ~loading)
    return {tables.models[column]: float(tables.waiting_work[column]) for column in columns}


def _pins(
    view: FleetView, tables: Tables
) -> tuple[tuple[tuple[int, int], ...], tuple[Refusal, ...]]:
    """Pins as (row, column), and those that name a Mac or a model which is not here."""
    pins = []
    rows = {machine: row for row, machine in enumerate(tables.machines)}
    columns = {model: column for column, model in enumerate(tables.models)}
    refused = []
    for pin in view.pins:
        if pin.model not in columns:
            refused.append(Refusal(pin.model, pin.machine, "pinned, but it is not on offer"))
        elif pin.machine not in rows:
            refused.append(Refusal(pin.model, pin.machine, "pinned, but the Mac is not here"))
        else:
            pins.append((rows[pin.machine], columns[pin.model]))
    return tuple(pins), tuple(refused)
