"""`coster up` to the first token: how long a new market takes to say its first word.

From the start of the command, on an empty data folder, with the real engine and the demo
model, to the ready line, and on to the first token of a first chat. Installation is not
included; files are as warm in the system's cache as the rounds leave them.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.common import chat_body, load_client, market
from benchmarks.figures import Report, read_options, spread_of
from benchmarks.load import Spec

ONE_STREAM_S = 0.001
"""A round that is over before its first answer: the client asks once and waits for that."""


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3)
    report = Report("up", "coster up, two demo Macs, the demo model, an empty data folder")
    rounds = [_once() for _ in range(asked.rounds)]
    first = spread_of(rounds, "first_token_s")
    report.row("command to first token", first, "s", "≤ 40, then ≤ 15")
    report.row("command to ready line", spread_of(rounds, "ready_s"), "s")
    report.row("first chat's TTFT", spread_of(rounds, "ttft_ms"), "ms")
    report.show()


def _once() -> dict[str, Any]:
    with load_client() as client:  # started beforehand: its start is not the market's
        began_s = time.monotonic()
        with market() as running:
            asked_s = time.monotonic()
            spec = Spec(running.port, running.key, (chat_body("hello"),), 1, ONE_STREAM_S)
            played = client.round(spec)
    return {
        "ready_s": running.up_s,
        "first_token_s": asked_s - began_s + played["ttft_ms_p50"] / 1e3,
        "ttft_ms": played["ttft_ms_p50"],
    }


if __name__ == "__main__":
    main()
