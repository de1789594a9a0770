"""Accountants that are killed in the middle of their commits, one life after another.

Run as a script: forks an accountant on the real store, lets sixteen lanes of requests go
through its group commit, kills it with SIGKILL at a random moment and audits what is left.
The next life first repeats everything that the last one answered or left open, and the
answers must be the same. Prints what it found as JSON. Forking needs a process without
threads, which a test runner is not.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from market.messages import Admitted, Part, Settle, Settled, Void, Voided
from market.types import AccountId, MachineId, ProviderId, RequestId
from storage.verify import verify
from tests.support.ledger_bench import Bench, start

LANES = 16
LIVES_A_LEDGER = 20  # then a fresh one: the audit of each life reads the whole ledger
LIFE_S_MAX = 0.03

Said = dict[str, tuple[str, int]]
"""The last durable answer about each request: held, settled or voided, and its cost."""


@dataclass
class Toll:
    """What the kills have cost."""

    kills: int = 0
    answers: int = 0
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def _live(data: Path, life: int, before: Said, answers_fd: int) -> None:
    bench = await start(data, promo_nano=10**15)

    def answer(request: str, word: str, cost_nano: int = 0) -> None:
        os.write(answers_fd, f"{request} {word} {cost_nano}\n".encode())

    await _repeat(bench, before, answer)

    async def lane(name: int) -> None:
        rng, count = random.Random(f"{life}-{name}"), 0
        while True:
            request = f"req_{life}_{name}_{count}"
            count += 1
            (held,) = await bench.do(bench.admit(request))
            assert isinstance(held, Admitted)
            answer(request, "held")
            if rng.random() < 0.2:
                (ended,) = await bench.do(Void(RequestId(request), "killed"))
                assert isinstance(ended, Voided)
                answer(request, "voided")
            else:
                (ended,) = await bench.do(_settle(bench, request, rng.randrange(188)))
                assert isinstance(ended, Settled)
                answer(request, "settled", ended.cost_nano)

    await asyncio.gather(*(lane(name) for name in range(LANES)))


def _settle(bench: Bench, request: str, completion: int) -> Settle:
    """Every other answer is by two Macs, at the market's prices: it costs what it costs."""
    op = bench.settle(request, completion)
    if completion % 2:
        return op
    lost = Part(AccountId("acct_lost"), MachineId("mac_9"), ProviderId("prv_9"), completion // 2)
    return replace(op, before=(lost,))


async def _repeat(bench: Bench, before: Said, answer: object) -> None:
    """Say again what the last life was told: a difference is reported as a loss."""
    for request, (word, cost_nano) in before.items():
        completion = (cost_nano - 412 * 100) // 780
        if word == "voided":
            (again,) = await bench.do(Void(RequestId(request), "killed"))
            same = isinstance(again, Voided)
        elif word == "settled":
            (again,) = await bench.do(_settle(bench, request, completion))
            same = isinstance(again, Settled) and again.cost_nano == cost_nano
        else:
            # Held for certain; that life may also have ended it without being able to say so.
            row = await bench.accountant.generation(None, RequestId(request))
            same = row.status in ("held", "settled", "voided")
        assert callable(answer)
        answer(request, "same" if same else "LOST")
    answer("-", "repeated")


def _one_life(data: Path, life: int, before: Said, rng: random.Random) -> list[list[str]]:
    """Everything that was answered until the kill."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        try:
            asyncio.run(_live(data, life, before, write_fd))
        finally:
            os._exit(1)
    os.close(write_fd)
    said = b""
    with os.fdopen(read_fd, "rb", buffering=0) as pipe:
        while b"- repeated" not in said or said.endswith(b"- repeated 0\n"):
            chunk = pipe.read(65_536)
            assert chunk, "the accountant died by itself"
            said += chunk
        time.sleep(rng.random() * LIFE_S_MAX)
        os.kill(pid, signal.SIGKILL)
        while chunk := pipe.read(65_536):
            said += chunk
    os.waitpid(pid, 0)
    return [line.split() for line in said.decode().splitlines()]


def nursery(folder: Path, lives: int, seed: int) -> Toll:
    """Live and die that many times."""
    toll, rng, said, data = Toll(), random.Random(seed), Said(), folder
    for life in range(lives):
        if life % LIVES_A_LEDGER == 0:
            said, data = {}, folder / f"ledger-{life // LIVES_A_LEDGER}"
        answers = _one_life(data, life, said, rng)
        toll.kills += 1
        said = {}
        for request, word, cost_nano in answers:
            if word == "LOST":
                toll.lost.append(request)
            elif word in ("same", "repeated"):
                toll.repeated += word == "same"
            else:
                said[request] = (word, int(cost_nano))
                toll.answers += 1
        toll.problems += verify(data, full=False).problems
    return toll


if __name__ == "__main__":
    print(json.dumps(asdict(nursery(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
