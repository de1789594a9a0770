"""`coster loadgen`: drive a running market with the lab's workloads, and report as the lab does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from coster.options import Data, Json, Seed, Url, count_of, reported
from coster.output import print_json, styled
from coster.stopping import terminable
from market.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coster.load.market import Seen
    from coster.load.play import Load, Played
    from coster.market_http import Connection
    from simulator.setup.scenario import Scenario

INTERRUPTED: Final = 130
TRACES: Final = (".jsonl", ".csv", ".gz")
"""Files with these endings are traces, all others scenarios."""

REPEAT_MAX: Final = 1_000


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(loadgen)


def loadgen(
    what: Annotated[
        str, typer.Argument(metavar="SCENARIO|FILE", help="A scenario, or a recorded trace.")
    ] = "demo",
    url: Url = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="API key; give several, and consumers are dealt to them."),
    ] = None,
    accounts: Annotated[
        int | None,
        typer.Option("--accounts", help="Open so many accounts for it, with --data of the market."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace one value: workload.0.rate_per_s=5.")
    ] = None,
    requests: Annotated[
        str | None, typer.Option(help="How many, such as 500 [default: the scenario's].")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=1e-6, help="Of a trace: how many times as fast.")
    ] = 1.0,
    seed: Seed = None,
    repeat: Annotated[int, typer.Option(min=1, max=REPEAT_MAX, help="Repetitions.")] = 1,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The tokenizer.json of the models [default: the demo model's]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder [default: in runs/].")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over an earlier run.")] = False,
    fleet: Annotated[
        bool, typer.Option("--fleet/--no-fleet", help="Ask the operator's listener for the Macs.")
    ] = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Load a running market as a workload says, open loop, and report like the lab.

    Ctrl-C ends it early; what was measured until then is kept and marked as a part.
    """
    with reported(as_json=json), terminable():
        from coster.market_http import api

        connection = api(data, url, key[0] if key else None, "demo_key")
        operations = _operations(data, url, wanted=fleet or accounts is not None)
        from coster.load import market

        seen = market.look(connection, operations if fleet else None)
        scenario = market.against(_scenario(what, settings, seen, speed), seen, count_of(requests))
        keys = tuple(key or (connection.key,))
        if accounts is not None:
            keys = _opened(connection, operations, accounts, keys if key else ())
        market.check_keys(connection.base, keys)
        load = _load(scenario, seen, connection.base, keys, tokenizer)
        first = scenario.seed if seed is None else seed
        folder = out or Path("runs") / f"{scenario.name}-live-{first}"
        played = _play_all(load, first, repeat, folder, replace=replace, quiet=json)
    _show(played, as_json=json)
    if not played[-1].complete:
        raise SystemExit(INTERRUPTED)


def _operations(data: Path | None, url: str | None, *, wanted: bool) -> Connection | None:
    """The operator's listener, where the market is one of this machine's."""
    from coster.market_http import operations

    return operations(data) if wanted and url is None else None


def _opened(
    connection: Connection, operations: Connection | None, count: int, keys: Sequence[str]
) -> tuple[str, ...]:
    from coster.load.market import open_accounts

    if keys:
        raise InvalidRequest("Give --key or --accounts, not both.", "accounts")
    if operations is None:
        raise InvalidRequest(
            "Only an operator opens accounts with credit: leave out --url and name the market's "
            "data folder with --data, or give --key.",
            "accounts",
        )
    return open_accounts(connection, operations, count)


def _scenario(what: str, settings: list[str] | None, seen: Seen, speed: float) -> Scenario:
    """A scenario by its name or file; a trace is played on whatever the market serves."""
    from coster.load.market import traced
    from simulator.setup.scenario_files import load
    from simulator.setup.settings import settings_of

    values = settings_of(settings or [])
    if what.endswith(TRACES):
        return traced(Path(what).expanduser(), seen, speed, values)
    if speed != 1.0:
        raise InvalidRequest("--speed is for traces; a scenario has a rate.", "speed")
    return load(what, values)


def _load(
    scenario: Scenario, seen: Seen, base: str, keys: tuple[str, ...], tokenizer: Path | None
) -> Load:
    from actors.engines.factory import DEMO_FOLDER
    from coster.load.calls import Target
    from coster.load.play import Load
    from coster.load.words import speech_of

    speech = speech_of(tokenizer or DEMO_FOLDER / "tokenizer.json")
    providers = tuple(mac.provider for mac in seen.macs or ())
    return Load(scenario, Target(base, keys, providers), seen, speech)


def _play_all(
    load: Load, seed: int, repeat: int, folder: Path, *, replace: bool, quiet: bool
) -> list[Played]:
    """One run in the folder itself; several, each in a numbered folder within it."""
    from coster.load.play import play
    from coster.sim_progress import requests_told

    done: list[Played] = []
    for number in range(repeat):
        place = folder if repeat == 1 else folder / f"{number:03d}"
        with requests_told(load.scenario.requests, quiet=quiet) as told:
            done.append(play(load, seed + number, place, replace=replace, told=told))
        if not done[-1].complete:
            break
    return done


def _show(played: Sequence[Played], *, as_json: bool) -> None:
    if as_json:
        runs = [_as_json(each) for each in played]
        print_json(runs[0] if len(runs) == 1 else {"runs": runs})
        return
    from coster import sim_show

    for each in played:
        sim_show.print_measured(each.folder, each.summary)
        if not each.complete:
            sys.stdout.write(
                styled("interrupted: this is a part of a run, and marked as one\n", "yellow",
                       sys.stdout)
            )  # fmt: skip


def _as_json(played: Played) -> dict[str, Any]:
    return {
        "folder": str(played.folder),
        "complete": played.complete,
        "summary": played.summary,
    }
