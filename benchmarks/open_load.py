"""An open-loop client: requests leave when they are due, whatever became of those before.

A closed loop sends less to whoever answers slowly, and so hides what it wants to measure. Run as a
script it reads one `Block` per line of standard input, as JSON, and answers with what each request
saw. It is a process of its own, so that measuring does not share an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.worker import serve_rounds

ENDS_S_MAX = 60.0
"""Requests under way at a block's end are waited for so long; then they count as lost."""

REFUSED_PAUSE_S = 0.2
"""Of a closed loop's client whom the market turns away, before it asks again."""

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SHARED_WORDS = 100
"""Words that all talks of a group begin with: 300 of the demo model's tokens."""

OWN_WORDS = (5, 40)
TOKENS_MEAN_LN, TOKENS_SPREAD_LN, TOKENS_MAX = 3.7, 0.7, 200
"""Lengths asked for: lognormal, 40 in the middle, as chats are."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: Poisson arrivals at `rate_per_s` for `seconds`, drawn from `seed`.

    `models` are drawn by `weights`; each talk belongs to one of `groups`, whose first
    `SHARED_WORDS` are the same; with another `salt` the groups are others, which nobody has read
    before. With `clients` the loop is closed instead: so many requests are kept under way, which
    is how a capacity is found.
    """

    base: str
    key: str
    seed: int
    seconds: float
    rate_per_s: float
    models: tuple[str, ...]
    weights: tuple[float, ...]
    groups: int
    salt: str
    clients: int = 0


@dataclass(slots=True)
class Seen:
    """One request as its client saw it. Times in seconds since it was due; None: it never was."""

    at_s: float
    model: str
    status: int = 0
    first_s: float | None = None
    total_s: float | None = None
    events: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_list(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]


FIELDS = tuple(Seen.__slots__)


def body_of(draw: random.Random, block: Block) -> tuple[str, dict[str, Any]]:
    """A model and a request: the group's words, then one's own."""
    (model,) = draw.choices(block.models, block.weights)
    group = draw.randrange(block.groups)
    shared = random.Random(group).choices(WORDS, k=SHARED_WORDS)
    own = draw.choices(WORDS, k=draw.randint(*OWN_WORDS))
    tokens = int(min(max(draw.lognormvariate(TOKENS_MEAN_LN, TOKENS_SPREAD_LN), 4), TOKENS_MAX))
    return model, {
        "model": model,
        "stream": True,
        "max_tokens": tokens,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": f"{block.salt} {group} " + " ".join(shared)},
            {"role": "user", "content": " ".join(own)},
        ],
    }


class Client:
    """Sends a block's requests over one session."""

    def __init__(self, block: Block, session: aiohttp.ClientSession) -> None:
        self._block = block
        self._session = session
        self._draw = random.Random(block.seed)
        self.seen: list[Seen] = []

    async def play(self) -> None:
        """Until every request has ended, or has had its time to."""
        began_s = time.perf_counter()
        if self._block.clients:
            sending = [self._again_and_again(began_s) for _ in range(self._block.clients)]
            await asyncio.gather(*sending)
            return
        tasks, due_s = [], 0.0
        while (due_s := due_s + self._draw.expovariate(self._block.rate_per_s)) < (
            self._block.seconds
        ):
            asked = body_of(self._draw, self._block)
            await asyncio.sleep(max(0.0, began_s + due_s - time.perf_counter()))
            tasks.append(asyncio.create_task(self._one(began_s, due_s, *asked)))
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=ENDS_S_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _again_and_again(self, began_s: float) -> None:
        while (now_s := time.perf_counter() - began_s) < self._block.seconds:
            seen = await self._one(began_s, now_s, *body_of(self._draw, self._block))
            if seen.total_s is None:
                await asyncio.sleep(REFUSED_PAUSE_S)

    async def _one(self, began_s: float, due_s: float, model: str, body: dict[str, Any]) -> Seen:
        seen = Seen(due_s, model)
        self.seen.append(seen)
        since_s = began_s + due_s
        url = f"{self._block.base}/chat/completions"
        headers = {"authorization": f"Bearer {self._block.key}"}
        try:
            async with self._session.post(url, json=body, headers=headers) as response:
                seen.status = response.status
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        _read(line, seen, time.perf_counter() - since_s)
        except aiohttp.ClientError:
            return seen  # it has no end: it counts as lost
        if seen.status == 200 and seen.completion_tokens:
            seen.total_s = time.perf_counter() - since_s
        return seen


def _read(line: bytes, seen: Seen, now_s: float) -> None:
    event = json.loads(line[6:])
    for choice in event.get("choices", ()):
        if choice.get("delta", {}).get("content"):
            seen.events += 1
            seen.first_s = now_s if seen.first_s is None else seen.first_s
    usage = event.get("usage")
    if usage:
        seen.prompt_tokens = usage["prompt_tokens"]
        seen.completion_tokens = usage["completion_tokens"]
        seen.cached_tokens = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)


async def play(block: Block) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        client = Client(block, session)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        await client.play()
        took_s = time.perf_counter() - began_s
    cores = (time.process_time() - cpu_s) / max(took_s, 1e-9)
    return {"seen": [seen.as_list() for seen in client.seen], "took_s": took_s, "cores": cores}


def main() -> None:
    serve_rounds(lambda asked: asyncio.run(play(Block(**asked))))


if __name__ == "__main__":
    main()
