"""Where a Mac stands in the market: what the router hears of it, and what happens to it.

The provider's part of a simulated Mac: beats, models coming and going, drains, and every way to
be gone. `SimMac` is only the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from market.fleet_file import MacSpec
from market.hardware import (
    chip_named,
    load_bytes_per_s,
    memory_budget_bytes,
    profile_of,
    warm_ms,
)
from market.routing.messages import Endpoint, Place, ProviderBeat, ProviderOrders
from market.types import (
    AccountId,
    EngineStats,
    MachineId,
    ModelFacts,
    ModelId,
    ModelSize,
    ProviderId,
    RequestId,
)
from simulator.records import MacUsed
from simulator.world.kernel import Kernel
from simulator.world.mac import Job, SimMac

Lost = Callable[[], None]


@dataclass(slots=True)
class _Place:
    """A model on its way in, in, or on its way out."""

    state: str
    since_s: float
    ready_s: float = 0.0


@dataclass(slots=True, eq=False)
class Stand:
    """One Mac of the fleet, by its position `number`."""

    kernel: Kernel
    number: int
    spec: MacSpec
    mac: SimMac
    sizes: dict[ModelId, ModelSize]
    used: MacUsed
    here: bool = True
    cut: bool = False  # a partition: nothing it says arrives
    claims: float = 1.0  # how many times faster than it is it says it is
    incarnation: int = 1
    here_since_s: float = 0.0
    places: dict[ModelId, _Place] = field(default_factory=dict)
    losers: dict[RequestId, tuple[Job, Lost]] = field(default_factory=dict)
    changed: bool = True
    loading: ModelId | None = None

    @property
    def machine(self) -> MachineId:
        return MachineId(f"mac_{self.number}")

    @property
    def provider(self) -> ProviderId:
        return ProviderId(f"prv_{self.number}")

    @property
    def owner(self) -> AccountId:
        return AccountId(f"acct_owner_{self.number}")

    # ── jobs ──────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, prefix: tuple[int, ...], lost: Lost) -> str | None:
        """Take a job in; the result of the attempt when it cannot."""
        if not self.here or self.cut:
            return "failed"
        place = self.places.get(job.model)
        if place is None or place.state != "ready":
            return "rejected"
        known = self.mac.prefixes.cached_tokens(job.model, prefix)
        job.cached_tokens = min(known, job.prompt_tokens - 1)
        job.left = job.prompt_tokens - job.cached_tokens
        self.losers[job.request_id] = (job, lost)
        self.mac.submit(job)
        return None

    def said(self, job: Job) -> int:
        """Tokens it has said of a job, running or over."""
        return job.said if job.over else self.mac.said(job)

    def cancel(self, job: Job | None) -> None:
        if job is not None and not job.over:
            self.mac.cancel(job.request_id)
        self._after(job)

    def served(self, prompt: int, cached: int, completion: int) -> None:
        """Count what it was paid for."""
        used = self.used
        used.jobs += 1
        used.prompt_tokens += prompt
        used.cached_tokens += cached
        used.completion_tokens += completion

    def _after(self, job: Job | None) -> None:
        if job is not None:
            self.losers.pop(job.request_id, None)
            self.unload_idle()

    # ── models ────────────────────────────────────────────────────────────────────────

    def install(self, model: ModelId) -> None:
        """It is there from the beginning."""
        self.places[model] = _Place("ready", self.kernel.now_s)
        self.mac.add_model(model)

    def follow(self, orders: ProviderOrders) -> None:
        """Load what is wanted, let go of what is not once nothing runs on it."""
        if orders.models is None or not self.here:
            return
        wanted = list(orders.models)
        for model, place in self.places.items():
            if model not in wanted and place.state == "ready":
                place.state, place.since_s = "leaving", self.kernel.now_s
                self.changed = True
            elif model in wanted and place.state == "leaving":
                place.state, place.since_s = "ready", self.kernel.now_s
                self.changed = True
        self.unload_idle()
        if self.loading is None:
            self._load_next(wanted)

    def _load_next(self, wanted: list[ModelId]) -> None:
        for model in wanted:
            if model in self.places:
                continue
            room = memory_budget_bytes(self.spec.hardware.memory_gb)
            taken = sum(self.sizes[m].weight_bytes for m in self.places)
            if taken + self.sizes[model].weight_bytes > room:
                return  # what leaves must have left first
            seconds = self._load_s(model)
            self.places[model] = _Place("loading", self.kernel.now_s)
            self.loading = model
            self.changed = True
            self.used.loads += 1
            self.used.loading_s += seconds
            self.used.loaded_bytes += self.sizes[model].weight_bytes
            self.kernel.after(seconds, self._loaded, model, self.incarnation)
            return

    def _load_s(self, model: ModelId) -> float:
        """As the live simulated engine: the disk delivers the weights, then passes warm it up."""
        chip = chip_named(self.spec.hardware.chip)
        read_s = self.sizes[model].weight_bytes / load_bytes_per_s(chip)
        return read_s + warm_ms(chip, profile_of(model)) / 1e3

    def _loaded(self, model: ModelId, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.here:
            return
        self.loading = None
        self.install(model)
        self.changed = True

    def unload_idle(self) -> None:
        """Drop the models that are leaving and that nothing runs on any more."""
        for model in [m for m, place in self.places.items() if place.state == "leaving"]:
            waits = any(job.model == model for job in self.mac.waiting if not job.over)
            if not self.mac.models[model].busy and not waits:
                self.mac.drop_model(model)
                del self.places[model]
                self.changed = True

    # ── coming and going ──────────────────────────────────────────────────────────────

    def go(self) -> None:
        """Gone: every job with it, and everything it had loaded."""
        if not self.here:
            return
        self.here = False
        self.used.here_s += self.kernel.now_s - self.here_since_s
        self.used.losses += 1
        self.mac.lose_all()
        self.places.clear()
        self.loading = None
        self._tell_losers()

    def lose_jobs(self) -> None:
        """Nobody listens any more: what runs is stopped, what is loaded stays."""
        for job, _ in list(self.losers.values()):
            self.mac.cancel(job.request_id)
        self._tell_losers()

    def _tell_losers(self) -> None:
        losers, self.losers = self.losers, {}
        for _, lost in losers.values():
            lost()

    def come(self) -> None:
        """Back, with nothing loaded."""
        if self.here:
            return
        self.here, self.cut = True, False
        self.here_since_s = self.kernel.now_s
        self.incarnation += 1
        self.changed = True

    # ── what the router hears ─────────────────────────────────────────────────────────

    def beat(self) -> ProviderBeat:
        """Its declaration."""
        mac, hardware = self.mac, self.spec.hardware
        budget = memory_budget_bytes(hardware.memory_gb)
        places = tuple(self._place(model, place) for model, place in self.places.items())
        ready = tuple(p.facts for p in places if p.state == "ready" and p.facts is not None)
        resident = sum(self.sizes[m].weight_bytes for m in self.places)
        state = "ready" if ready or not self.places else "starting"
        return ProviderBeat(
            machine=self.machine,
            provider=self.provider,
            owner=self.owner,
            incarnation=self.incarnation,
            pid=self.number,
            node="sim",
            endpoint=Endpoint("sim", self.number),
            hardware=hardware,
            state=state,
            reason="",
            models=ready,
            stats=_stats(mac.slots, mac.running, len(mac.waiting), 0.0, budget, resident),
            code_version="sim",
            uptime_s=self.kernel.now_s - self.here_since_s,
            places=places,
            memory_bytes=budget,
            ask_pct=self.spec.ask_pct,
            trust=self.spec.trust,
            load_bytes_per_s=load_bytes_per_s(chip_named(hardware.chip)),
            allowed=self.spec.models,
        )

    def _place(self, model: ModelId, place: _Place) -> Place:
        size = self.sizes[model]
        facts = ModelFacts(
            model,
            size.digest or model,
            size.context_tokens,
            151_936,
            size.weight_bytes,
            size.kv_bytes_per_token,
            size.quantization,
        )
        running = self.mac.running_of(model)
        tps = self.mac.decode_tps(model) * self.claims
        stats = _stats(self.mac.slots, running, 0, tps, 0, size.weight_bytes)
        since_s = self.kernel.now_s - place.since_s
        return Place(model, place.state, "", since_s, facts, stats)  # type: ignore[arg-type]


def _stats(
    slots: int, running: int, waiting: int, decode_tps: float, budget: int, used: int
) -> EngineStats:
    return EngineStats(slots, running, waiting, used, budget, decode_tps, 0.0, 0, 0, 0, 0, 0, 0, 0)
