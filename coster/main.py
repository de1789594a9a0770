"""`coster`: the commands, one file per noun; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from coster import (
    books,
    books_files,
    books_report,
    consumer,
    databases,
    earned,
    fleet,
    keys,
    loadgen,
    market_state,
    network,
    node,
    operator,
    paying,
    payouts,
    placing,
    sim,
    usage,
    waiting,
    why,
)
from coster.options import Data

app = typer.Typer(
    name="coster",
    help="An open market for inference on Macs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def up(
    data: Data = None,
    macs: Annotated[
        int | None,
        typer.Option(help="How many demo Macs to run, of different chips [default: 2]."),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(help="A file that says which Macs, for simulated and echo engines."),
    ] = None,
    engine: Annotated[str, typer.Option(help="What they run: mlx, simulated or echo.")] = "mlx",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model folder or hub id, or a catalogue model for simulated and echo engines; "
            "give it once per model [default: the demo model]."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The API's port [default: 8000, or the next free one].")
    ] = None,
    host: Annotated[str, typer.Option(help="The address the API binds.")] = "127.0.0.1",
    slots: Annotated[int, typer.Option(help="Sequences one Mac decodes at once.")] = 32,
    pace_ms: Annotated[float, typer.Option(help="Time between tokens of the echo engine.")] = 0.0,
    gateways: Annotated[int, typer.Option(help="Gateway replicas.")] = 2,
    database: Annotated[
        str | None, typer.Option("--database", help=f"Where the books are: {databases.HELP}")
    ] = None,
    transport: Annotated[
        str, typer.Option(help="How tokens travel: framed or ray_stream.")
    ] = "framed",
    policy: Annotated[str, typer.Option(help="The routing policy, for comparing.")] = "coster",
    json: Annotated[bool, typer.Option("--json", help="One line of JSON when ready.")] = False,
) -> None:
    """Open a market on this machine; Ctrl-C drains and stops it."""
    from coster.compose import UpOptions
    from coster.market_http import paths_of
    from coster.up import up as run_up

    options = UpOptions(
        macs,
        engine,
        tuple(model or ()),
        slots,
        pace_ms,
        transport,
        gateways,
        host,
        database or "",
        fleet,
        policy,
    )
    run_up(paths_of(data), options, port, as_json=json)


market_state.add_to(app)
network.add_to(app)
fleet.add_to(app)
placing.add_to(app)
waiting.add_to(app)
why.add_to(app)
consumer.add_to(app)
usage.add_to(app)
keys.add_to(app)
paying.add_to(app)
earned.add_to(app)
payouts.add_to(app)
books.add_to(app)
books_files.add_to(books.ledger)
books_report.add_to(books.ledger)
operator.add_to(app)
node.add_to(app)
sim.add_to(app)
loadgen.add_to(app)


def run() -> None:
    """The console script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


if __name__ == "__main__":
    run()
