"""One measured run from beginning to end: load against a market, into a folder."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coster.load.calls import Caller, Target, caller_session
from coster.load.drive import Drive
from coster.load.folder import Measured, write
from coster.load.market import Seen
from coster.load.words import Prompts, Speech
from market.accounting.pricing import split_fee
from simulator.limits.bounds import fluid_capacity
from simulator.records import Ended
from simulator.results import folders
from simulator.results.parquet import RequestWriter
from simulator.setup.scenario import Scenario
from simulator.streams import Streams
from simulator.workloads.source import Source

FILES_MAX: Final = 65_536
"""Open sockets that are asked of the system; it may give less."""

STOPS: Final = (signal.SIGINT, signal.SIGTERM)

Told = Callable[[int], None]
"""Told how many requests have ended."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be played, on what, in which words."""

    scenario: Scenario
    target: Target
    seen: Seen
    speech: Speech


@dataclass(frozen=True, slots=True)
class Played:
    """A run that is in its folder; `complete` unless somebody cut it off."""

    folder: Path
    summary: Mapping[str, Any]
    complete: bool


def play(load: Load, seed: int, folder: Path, *, replace: bool, told: Told | None) -> Played:
    """Play it once. The first interrupt ends it early and keeps what there is, marked as a part;
    a second one ends it at once and keeps nothing.

    Raises Conflict when the folder is taken, InvalidRequest for what cannot be played.
    """
    _allow_sockets()
    with folders.whole(folder, replace=replace) as fresh:
        with RequestWriter(fresh / folders.REQUESTS) as writer:
            measured = asyncio.run(_drive(load, seed, writer, told))
        summary = write(fresh, measured)
    return Played(folder, summary, complete=not measured.interrupted)


async def _drive(load: Load, seed: int, writer: RequestWriter, told: Told | None) -> Measured:
    scenario, target = load.scenario, load.target
    source = Source(
        scenario.workloads,
        Streams(seed),
        capacity=lambda mix: fluid_capacity(scenario.macs, mix, scenario.slots),
        requests=scenario.requests,
        duration_s=scenario.duration_s,
    )
    count = 0

    def tell(ended: Ended) -> None:
        nonlocal count
        count += 1
        split = split_fee(ended.cost_nano, scenario.market.platform_fee_bps)
        ended.fee_nano, ended.provider_nano = split.fee_nano, split.provider_nano
        writer.ended(ended)
        if told is not None:
            told(count)

    prompts = Prompts(load.speech, seed)
    async with caller_session() as session:
        caller = Caller(session, target)
        drive = Drive(source, prompts, caller, target.providers, tell)
        with _stopped_by_interrupt(drive):
            await drive.run()
    notes = {**source.notes}
    if prompts.forgotten:
        notes["conversations that went on in other words: too many at once"] = prompts.forgotten
    return Measured(
        scenario=scenario,
        seed=seed,
        seen=load.seen,
        url=target.base,
        providers=caller.providers,
        generator=drive.generator,
        interrupted=drive.interrupted,
        notes=notes,
    )


@contextmanager
def _stopped_by_interrupt(drive: Drive) -> Iterator[None]:
    """The first interrupt or SIGTERM stops the drive, a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        begin_anew()
        drive.stop()

    def begin_anew() -> None:
        for number in STOPS:
            loop.remove_signal_handler(number)
        if before is not None:
            signal.signal(signal.SIGTERM, before)

    before = signal.getsignal(signal.SIGTERM)
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        begin_anew()


def _allow_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
