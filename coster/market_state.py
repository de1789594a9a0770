"""What an operator asks of a market: status, doctor, down."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from coster.options import Data, Json, reported
from coster.output import DEGRADED, NotRunning, print_json, styled

DOWN_S_MAX = 60.0


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(down)
    app.command()(status)
    app.command()(doctor)


def down(
    data: Data = None,
    force: Annotated[bool, typer.Option("--force", help="Do not wait for streams.")] = False,
    json: Json = False,
) -> None:
    """Drain and stop the market on this data, or end what a killed one left behind."""
    from coster.market_http import paths_of
    from coster.runfile import (
        end_processes,
        is_alive,
        leftovers,
        read_run,
        wait_until_ended,
    )

    paths = paths_of(data)
    with reported(as_json=json):
        run = read_run(paths)
        if run is None:
            raise NotRunning(f"No market runs on {paths.data}.")
        graceful = False
        if is_alive(run.pid, run.started_s):
            os.kill(run.pid, signal.SIGTERM)
            if force:
                os.kill(run.pid, signal.SIGTERM)
            graceful = wait_until_ended(run.pid, run.started_s, DOWN_S_MAX)
            if not graceful:
                end_processes([(run.pid, run.started_s)])
        ended = end_processes(leftovers(run))
        paths.run_file.unlink(missing_ok=True)
    if json:
        print_json({"stopped": True, "graceful": graceful, "ended_processes": ended})
        return
    sys.stdout.write(
        "The market is stopped.\n" if graceful else f"Ended {ended} processes of a killed market.\n"
    )


def status(
    every: Annotated[bool, typer.Option("--all", help="Every Mac, however many.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """What is wanted, what is there and what fails: actors, models and Macs, with the reason."""
    from coster.market_http import operations, running

    with reported(as_json=json):
        answer = operations(data).request("GET", "/admin/status")
        answer["api_base"] = running(data).api_base
    if json:
        print_json(answer)
    else:
        from coster.status_show import print_status

        print_status(sys.stdout, answer, every=every)
    if not answer.get("ok", True):
        raise SystemExit(DEGRADED)


def doctor(data: Data = None, json: Json = False) -> None:
    """Check this machine and this data; each finding says what to do."""
    from coster.examine import examine
    from coster.market_http import paths_of

    findings = examine(paths_of(data))
    bad = [f for f in findings if not f.ok]
    if json:
        print_json({"ok": not bad, "checks": [f.as_json() for f in findings]})
    else:
        for finding in findings:
            mark = (
                styled("✓", "green", sys.stdout) if finding.ok else styled("✗", "red", sys.stdout)
            )
            sys.stdout.write(f" {mark} {finding.name:22} {finding.detail}\n")
            if not finding.ok:
                sys.stdout.write(f"   {'':22} fix: {finding.fix}\n")
    if bad:
        raise SystemExit(DEGRADED)
