"""32 concurrent chats through the whole stack, against `mlx_lm.server` over HTTP.

The same model folder, the same chats, the same load client, in turn; the server's listen
backlog is fixed and its batch is as wide as ours. It keeps no ledger, no router and no queue.
"""

from __future__ import annotations

import sys

from benchmarks.chats import (
    CLIENTS,
    TOKENS_MAX,
    add_model_flag,
    blas_of,
    bodies,
    engine_environment,
    model_folder,
)
from benchmarks.common import MODEL, free_port, load_client, market, server
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
    report = Report("engine_server", f"{CLIENTS} chats of up to {TOKENS_MAX} tokens, greedy")
    own_model = ("--model", str(folder)) if asked.own.model else ()
    name = f"local/{folder.name}" if asked.own.model else MODEL
    env, port = engine_environment(), free_port()
    command = [sys.executable, "-m", "benchmarks.mlx_server", "--model", str(folder)]
    command += ["--port", str(port), "--log-level", "ERROR"]
    command += ["--decode-concurrency", str(CLIENTS), "--prompt-concurrency", str(CLIENTS)]
    with (
        server(command, port, env=env),
        market("--macs", "1", "--slots", str(CLIENTS), *own_model, env=env) as running,
        load_client() as client,
    ):
        running.await_macs(1)
        report.fact("model", name)
        report.fact("BLAS", blas_of(running.pid_of("provider")))
        ours, theirs = (
            Spec(to, running.key, bodies(model), CLIENTS, asked.seconds, by_usage=True)
            for to, model in ((running.port, name), (port, "default_model"))
        )
        sides = {"stack": lambda: client.round(ours), "server": lambda: client.round(theirs)}
        interleave(sides, 1)
        found = interleave(sides, asked.rounds)
    report.row(
        "stack / mlx_lm.server",
        ratio_of(found["stack"], found["server"], "tokens_per_s"),
        "×",
        "≥ 1.0, then ≥ 1.3",
    )
    for side, label in (("stack", "stack"), ("server", "mlx_lm.server")):
        played = found[side]
        lengths = Spread.of([one["tokens"] / max(1, one["streams"]) for one in played])
        report.row(label, spread_of(played, "tokens_per_s"), "tokens/s")
        report.row(f"{label}, tokens an answer", lengths, "")
        report.row(f"{label}, TTFT p50", spread_of(played, "ttft_ms_p50"), "ms")
    report.show()


if __name__ == "__main__":
    main()
