"""What an operator asks of a market: status, why, doctor, down."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer

from coster.options import Data, Json, reported
from coster.output import DEGRADED, NotRunning, print_json, styled

DOWN_S_MAX = 60.0


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(down)
    app.command()(status)
    app.command()(why)
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


def status(data: Data = None, json: Json = False) -> None:
    """Every actor of the market: role, pid, node, state and why."""
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", "/admin/status")
    if json:
        print_json(answer)
    else:
        _print_status(answer)
    if not answer.get("ok", True):
        raise SystemExit(DEGRADED)


def _print_status(answer: dict[str, Any]) -> None:
    out = sys.stdout
    sys.stdout.write(f"{'role':12} {'name':16} {'state':12} {'pid':>8}  {'node':12} detail\n")
    for actor in answer.get("actors", []):
        state = str(actor.get("state", "?"))
        style = "green" if state in ("ready", "running") else "yellow"
        detail = str(actor.get("reason") or actor.get("detail") or "")
        name = str(actor.get("name") or actor.get("actor") or "—")
        out.write(
            f"{actor.get('role', '?')!s:12} {name[:16]:16} "
            f"{styled(f'{state:12}', style, out)} {actor.get('pid') or '—'!s:>8}  "
            f"{str(actor.get('node') or '—')[:12]:12} {detail}\n"
        )
    for model in answer.get("models", []):
        out.write(
            f"model {model['model']}: {model['ready']} of {model['providers']} Macs ready, "
            f"{model['free_slots']} slots free, {model['queued']} requests waiting\n"
        )


def why(
    request_id: Annotated[str, typer.Argument(help="The x-coster-request-id of a response.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Why a request went where it went: candidates, terms, attempts, outcome."""
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", f"/admin/why/{request_id}")
    if json:
        print_json(answer)
        return
    _print_decision(answer)


def _print_decision(answer: dict[str, Any]) -> None:
    out = sys.stdout
    out.write(f"{answer['request_id']}  {answer.get('model', '')}  {answer.get('state', '')}\n")
    for attempt in answer.get("attempts", ()):
        decision, outcome = attempt.get("decision") or {}, attempt.get("outcome") or {}
        chosen = decision.get("chosen") or "nobody"
        out.write(
            f"\nattempt {attempt['attempt']} → {chosen}: {outcome.get('result', 'running')}\n"
        )
        waited = decision.get("waited_s") or 0.0
        out.write(f"  {decision.get('summary', '')}; waited {waited:.3f} s\n")
        for candidate in decision.get("candidates", ()):
            terms = " · ".join(f"{k} {v:.1f}" for k, v in candidate["terms_ms"].items())
            mark = "→" if candidate["chosen"] else " "
            out.write(
                f"  {mark} {candidate['provider']:22} {candidate['total_ms']:9.1f} ms   {terms}\n"
            )
        for reason, count in (decision.get("ruled_out") or {}).items():
            out.write(f"    {count} ruled out: {reason}\n")
        if decision.get("refusal"):
            out.write(f"    refused: {decision['refusal']}\n")
        if outcome.get("ttft_ms") is not None:
            out.write(
                f"  predicted first token {decision.get('predicted_ttft_ms') or 0:.0f} ms, took "
                f"{outcome['ttft_ms']:.0f} ms; {outcome['completion_tokens']} tokens in "
                f"{outcome['total_ms']:.0f} ms\n"
            )


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
