"""Added time to the first token: one client, one stream after another, against bare uvicorn.

With nobody else about, every hop is paid in full: nothing shares a batch. The echo engine
answers at once, so the difference is the path's own.
"""

from __future__ import annotations

from benchmarks.common import bare_uvicorn, chat_body, load_client, market
from benchmarks.figures import Report, difference_of, interleave, read_options, spread_of
from benchmarks.load import Spec


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0])
    report = Report("ttft", "time to the first token, 1 client")
    with bare_uvicorn() as bare, market("--engine", "echo") as running, load_client() as client:
        running.await_macs(2)
        ours, theirs = (
            Spec(port, running.key, (chat_body(),), 1, asked.seconds)
            for port in (running.port, bare.port)
        )
        for spec in (ours, theirs):
            client.round(spec)
        found = interleave(
            {"coster": lambda: client.round(ours), "bare": lambda: client.round(theirs)},
            asked.rounds,
        )
    for percent in ("p50", "p99"):
        figure = f"ttft_ms_{percent}"
        aim = "≤ 10, then ≤ 3" if percent == "p50" else ""
        added = difference_of(found["coster"], found["bare"], figure)
        report.row(f"added TTFT {percent}", added, "ms", aim)
        report.row(f"TTFT {percent}, coster", spread_of(found["coster"], figure), "ms")
        report.row(f"TTFT {percent}, bare", spread_of(found["bare"], figure), "ms")
    report.row("whole stream p50", spread_of(found["coster"], "total_ms_p50"), "ms")
    report.show()


if __name__ == "__main__":
    main()
