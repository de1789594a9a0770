"""32 concurrent chats through the whole stack, against BatchGenerator alone in one process.

One Mac, the real engine, the real model: HTTP, ledger, routing and transport are paid for by
the stack alone, and the load client shares its machine. Both draw greedily from the same chats
with the same limit, in turn.
"""

from __future__ import annotations

from benchmarks.chats import (
    CLIENTS,
    TOKENS_MAX,
    EngineRound,
    add_model_flag,
    blas_of,
    bodies,
    engine_environment,
    model_folder,
)
from benchmarks.common import MODEL, load_client, market, worker
from benchmarks.figures import (
    Report,
    Spread,
    interleave,
    ratio_of,
    read_options,
    spread_of,
)
from benchmarks.load import Spec


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], seconds=5.0, add=add_model_flag)
    folder = model_folder(asked.own.model)
    report = Report("engine_stack", f"{CLIENTS} chats of up to {TOKENS_MAX} tokens, greedy")
    own_model = ("--model", str(folder)) if asked.own.model else ()
    name = f"local/{folder.name}" if asked.own.model else MODEL
    env = engine_environment()
    with (
        market("--macs", "1", "--slots", str(CLIENTS), *own_model, env=env) as running,
        load_client() as client,
        worker("engine_alone", str(folder), env=env) as alone,
    ):
        running.await_macs(1)
        report.fact("model", name)
        report.fact("BLAS", blas_of(running.pid_of("provider")))
        spec = Spec(running.port, running.key, bodies(name), CLIENTS, asked.seconds, by_usage=True)
        sides = {
            "stack": lambda: client.round(spec),
            "alone": lambda: alone.round(EngineRound(asked.seconds)),
        }
        interleave(sides, 1)
        found = interleave(sides, asked.rounds)
    report.row(
        "stack / alone",
        ratio_of(found["stack"], found["alone"], "tokens_per_s"),
        "×",
        "≥ 0.85, then ≥ 0.95",
    )
    report.row("stack", spread_of(found["stack"], "tokens_per_s"), "tokens/s")
    report.row("BatchGenerator alone", spread_of(found["alone"], "tokens_per_s"), "tokens/s")
    lengths = [played["tokens"] / played["streams"] for played in found["stack"]]
    report.row("tokens an answer, stack", Spread.of(lengths), "")
    report.row("tokens an answer, alone", spread_of(found["alone"], "tokens_per_stream"), "")
    report.row("stack, TTFT p50", spread_of(found["stack"], "ttft_ms_p50"), "ms")
    report.row("load client", spread_of(found["stack"], "client_cores"), "cores")
    report.show()


if __name__ == "__main__":
    main()
