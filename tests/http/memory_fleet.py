"""A router and its Macs in memory: scripted to answer, fail, stall or refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from market.catalogue import DEMO_MODEL
from market.errors import (
    MarketError,
    Unavailable,
)
from market.routing.messages import (
    Busy,
    Endpoint,
    Grant,
    ModelAvailability,
    Outcome,
    Quote,
    QuotedMac,
    RouteRequest,
)
from market.routing.public import PublicFleet, PublicMac
from market.types import (
    Event,
    Hardware,
    Job,
    JobFailure,
    MachineId,
    ModelId,
    ProviderId,
    RequestId,
    TokenLogprob,
)
from tests.http.memory_accountant import MAC_OWNER


@dataclass
class Mac:
    """One scripted Mac. `script` maps a job to its events; None entries are pauses."""

    name: str
    slots: int = 64
    running: int = 0
    fails: list[JobFailure] = field(default_factory=list)
    refuses: Exception | None = None
    pace_s: float = 0.0
    silent: bool = False
    fail_after: int | None = None
    fail_code: Literal["lost", "invalid"] = "lost"
    cannot: set[str] = field(default_factory=set)  # models that fail here at once
    ask_pct: int = 100
    cancelled: list[RequestId] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def machine(self) -> MachineId:
        return MachineId(f"mac_{self.name}")


class Fleet:
    """Router and transport in one: grants slots of its Macs and runs their echo jobs.

    A Mac answers with the characters of the prompt, over and over, up to `max_tokens` or
    24 tokens, then stops. What was said elsewhere before it goes on after.
    """

    LENGTH = 24

    def __init__(self, *macs: Mac) -> None:
        self.macs = list(macs) or [Mac("a"), Mac("b"), Mac("c")]
        self.outcomes: list[Outcome] = []
        self.requests: list[RouteRequest] = []
        self.grants = 0
        self.digest = ""  # with one, a Mac can go on where another was lost
        self.hedge_after_ms = 0.0
        self.room_for_hedges = True
        self.hedge_digest: str | None = None  # of the Mac that is granted, if it is another
        self.hedge_answered: asyncio.Event | None = None  # until then the answer is on its way
        self.payee = MAC_OWNER
        self.error: MarketError | None = None
        self.errors: dict[str, MarketError] = {}  # by model
        self.quoted: list[RouteRequest] = []
        self.private: set[MachineId] = set()
        self.fleet_error: MarketError | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopped: set[tuple[RequestId, MachineId]] = set()
        self.produced: dict[RequestId, int] = {}
        self.delivered: dict[tuple[RequestId, MachineId], int] = {}

    async def route(self, request: RouteRequest) -> Grant | Busy:
        self.requests.append(request)
        await asyncio.sleep(0)
        error = self.error or self.errors.get(request.model)
        if error is not None:
            raise error
        if request.hedge and not self.room_for_hedges:
            return Busy(request.request_id, 0)
        ends_s = time.monotonic() + request.deadline_s
        while True:
            mac = self._free(request)
            if mac is not None:
                mac.running += request.n
                self.grants += 1
                if request.hedge and self.hedge_answered is not None:
                    await self.hedge_answered.wait()
                other = self.hedge_digest if request.hedge else None
                return Grant(
                    request.request_id,
                    request.attempt,
                    mac.machine,
                    ProviderId(f"prv_{mac.name}"),
                    self.payee,
                    Endpoint("127.0.0.1", 1),
                    1.0,
                    self.digest if other is None else other,
                    hedge_after_ms=0.0 if request.hedge else self.hedge_after_ms,
                    ask_pct=mac.ask_pct,
                )
            if request.funding is None:
                return Busy(request.request_id, 1)
            if time.monotonic() > ends_s:
                raise Unavailable("No slot came free.", None, "queue_timeout", 2.0)
            await asyncio.sleep(0.005)

    def _free(self, request: RouteRequest) -> Mac | None:
        for mac in self.macs:
            fits = mac.running + request.n <= mac.slots
            if mac.machine not in request.excluded and fits:
                return mac
        return None

    async def quote(self, request: RouteRequest) -> Quote:
        self.quoted.append(request)
        await asyncio.sleep(0)
        error = self.error or self.errors.get(request.model)
        mac = self._free(request)
        macs = [
            QuotedMac(ProviderId(f"prv_{m.name}"), m is mac, m.running < m.slots, m.ask_pct, 0,
                      10.0, 12.0, 100.0, 80.0, 250.0, 300.0)
            for m in self.macs
        ]  # fmt: skip
        wait_s = 0.0 if mac is not None else 3.0
        return Quote(
            request.request_id, tuple(macs), len(macs), (), 24.0, 30.0, 0, wait_s, "", error
        )

    def calibration(self) -> dict[ModelId, dict[str, object]]:
        told = {"requests": 3, "bias": 1.1, "typical_error": 0.2, "within_p90": 0.9}
        return {DEMO_MODEL: {**told, "total": dict(told)}}

    async def public_fleet(self, epoch: int) -> PublicFleet:
        """Every Mac is an M4 Max with the demo model; those in `private` are left out."""
        if self.fleet_error is not None:
            raise self.fleet_error
        chip = Hardware("M4 Max", 128, 40, 16, 546.0)
        macs = [
            PublicMac(mac.machine, self.payee, ProviderId(f"prv_{mac.name}"), chip, "ready",
                      "basic", (DEMO_MODEL,), None, 63.5)
            for mac in self.macs
            if mac.machine not in self.private
        ]  # fmt: skip
        return PublicFleet(tuple(macs), frozenset(self.private))

    async def told(self, request_id: RequestId) -> Mapping[str, Any] | None:
        """Scripted Macs decide nothing that could be explained."""
        if self.error is not None:
            raise self.error
        return None

    def report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        asked = [r for r in self.requests if r.request_id == outcome.request_id]
        self._mac(outcome.machine).running -= asked[-1].n

    def availability(self) -> list[ModelAvailability]:
        free = sum(mac.slots - mac.running for mac in self.macs)
        return [ModelAvailability(DEMO_MODEL, len(self.macs), len(self.macs), free, 0)]

    def jobs_taken(self) -> int:
        return sum(len(mac.jobs) for mac in self.macs)

    def _mac(self, machine: MachineId) -> Mac:
        return next(mac for mac in self.macs if mac.machine == machine)

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        mac = self._mac(grant.machine)
        mac.jobs.append(job)
        if mac.refuses is not None:
            raise mac.refuses
        task = asyncio.create_task(self._run(mac, job, on_event))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self, grant: Grant, request_id: RequestId) -> None:
        self._mac(grant.machine).cancelled.append(request_id)
        self.stopped.add((request_id, grant.machine))

    async def _run(self, mac: Mac, job: Job, on_event: Callable[[Event], None]) -> None:
        if mac.silent:
            return
        if mac.fails or job.model in mac.cannot:
            failure = mac.fails.pop(0) if mac.fails else JobFailure("engine", "It broke.")
            on_event(Event(job.request_id, 0, (), "", 0, error=failure))
            return
        length = min(job.max_tokens, self.LENGTH)
        reason = "stop" if length == self.LENGTH else "length"
        for at in range(len(job.said), length):
            if (job.request_id, mac.machine) in self.stopped:
                return
            if mac.fail_after == at:
                lost = JobFailure(mac.fail_code, "The Mac is gone.")
                on_event(Event(job.request_id, 0, (), "", at, error=lost))
                return
            await asyncio.sleep(mac.pace_s)
            token = job.prompt_ids[at % len(job.prompt_ids)]
            text = chr(31 + token)
            logprobs: tuple[TokenLogprob, ...] = ()
            if job.top_logprobs is not None:
                top = tuple((token, text, -0.5) for _ in range(job.top_logprobs))
                logprobs = (TokenLogprob(token, text, -0.5, top),)
            for index in range(job.n):
                finish = reason if at == length - 1 else None
                on_event(
                    Event(
                        job.request_id,
                        index,
                        (token,),
                        text,
                        at + 1,
                        finish,  # type: ignore[arg-type]
                        logprobs=logprobs,
                    )
                )
            self.produced[job.request_id] = (at + 1) * job.n
            key = (job.request_id, mac.machine)
            self.delivered[key] = self.delivered.get(key, 0) + job.n
