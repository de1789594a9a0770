"""How much load `coster loadgen` makes on one core before it is late itself.

Against bare uvicorn, which answers 64 chunks at once and thinks about nothing: everything that is
late is the generator's. Requests of 250 words come at a fixed rate, open loop; at each rate the
lateness of its own sending and the share of a core that it took.
"""

from __future__ import annotations

import asyncio
from typing import Any

from actors.engines.factory import DEMO_FOLDER
from benchmarks.common import bare_uvicorn
from benchmarks.figures import Report, interleave, read_options, spread_of
from coster.load.calls import Caller, Target, caller_session
from coster.load.drive import Drive
from coster.load.words import Prompts, Speech, speech_of
from market.types import ModelId
from simulator.records import Arrival, Ended
from simulator.workloads.given import Given

RATES = (50, 100, 200, 300)
PROMPT_TOKENS = 250
ANSWER_TOKENS = 64
MODEL = ModelId("coster/demo")


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=5.0)
    report = Report("loadgen", "streams of 64 chunks from bare uvicorn, open loop")
    speech = speech_of(DEMO_FOLDER / "tokenizer.json")
    with bare_uvicorn() as bare:
        base = f"http://127.0.0.1:{bare.port}/v1"
        sides = {
            str(rate): lambda rate=rate: asyncio.run(_round(base, speech, rate, asked.seconds))
            for rate in RATES
        }
        rounds = interleave(sides, asked.rounds)
    for rate, played in rounds.items():
        aim = "≤ 50" if rate == "200" else ""
        report.row(f"{rate}/s, late p99", spread_of(played, "late_ms"), "ms", aim)
        report.row(f"{rate}/s, of a core", spread_of(played, "cpu_share"), "")
        report.row(f"{rate}/s, answered", spread_of(played, "answered_per_s"), "/s")
    report.show()


async def _round(base: str, speech: Speech, rate: int, seconds: float) -> dict[str, Any]:
    count = int(rate * seconds)
    asked = (
        Arrival(n, n / rate, f"c{n % 10}", MODEL, PROMPT_TOKENS, ANSWER_TOKENS, ANSWER_TOKENS)
        for n in range(count)
    )
    ended: list[Ended] = []
    async with caller_session() as session:
        caller = Caller(session, Target(base, ("none",)))
        drive = Drive(Given(asked), Prompts(speech, 1), caller, (), ended.append)
        await drive.run()
    failed = [each.code for each in ended if each.status != "ok"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} requests failed, the first with {failed[0]}")
    late = sorted(drive.generator.late_s)
    return {
        "late_ms": 1e3 * late[int(0.99 * (count - 1))],
        "cpu_share": drive.generator.cpu_s / drive.generator.wall_s,
        "answered_per_s": count / drive.generator.wall_s,
    }


if __name__ == "__main__":
    main()
