"""Many streams at once against a live market, each reporting what its client saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx2
import orjson

STREAM_S_MAX = 90


@dataclass
class Seen:
    """What one client saw of its stream."""

    status: int = 0
    request_id: str = ""
    provider: str = ""
    text: str = ""
    finish: str | None = None
    error: str | None = None
    done: bool = False
    broken: str | None = None
    cost_nano: int | None = None
    attempts: int = 0
    shares: dict[str, int] = field(default_factory=dict)
    """Tokens by Mac, where more than one has said some."""
    first: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def outcome(self) -> str:
        """answered, refused (an error before or in the stream), or broken (a cut socket)."""
        if self.broken:
            return "broken"
        if self.error or self.status >= 400:
            return "refused"
        return "answered" if self.done else "truncated"


async def one_stream(base: str, key: str, model: str, number: int, tokens: int, seen: Seen) -> Seen:
    """One streamed chat; never raises for what the server does."""
    body = {
        "model": model,
        "stream": True,
        "max_tokens": tokens,
        "temperature": 0,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": f"What is the capital of France? {number}"}],
    }
    try:
        async with (
            httpx2.AsyncClient(timeout=STREAM_S_MAX) as client,
            client.stream(
                "POST",
                f"{base}/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {key}"},
            ) as response,
        ):
            seen.status = response.status_code
            seen.request_id = response.headers.get("x-coster-request-id", "")
            seen.provider = response.headers.get("x-coster-provider", "")
            if response.status_code >= 400:
                answer = orjson.loads(await response.aread())
                seen.error = str(answer["error"]["code"] or answer["error"]["type"])
                return seen
            async for line in response.aiter_lines():
                _read(line, seen)
    except httpx2.TransportError as error:
        seen.broken = type(error).__name__
    return seen


def _read(line: str, seen: Seen) -> None:
    if line == "data: [DONE]":
        seen.done = True
        return
    if not line.startswith("data: "):
        return
    event = orjson.loads(line[6:])
    if error := event.get("error"):
        seen.error = str(error["code"] or error["type"])
    if usage := event.get("usage"):
        seen.cost_nano = int(usage["cost_nano_usd"])
        seen.attempts = int(usage["attempts"])
        for share in usage.get("providers", ()):
            said = int(share["completion_tokens"])
            seen.shares[share["provider"]] = seen.shares.get(share["provider"], 0) + said
    for choice in event.get("choices", ()):
        seen.text += choice.get("delta", {}).get("content") or ""
        seen.finish = choice.get("finish_reason") or seen.finish
    if seen.text:
        seen.first.set()


class Crowd:
    """`count` streams running at once."""

    def __init__(self, base: str, key: str, model: str, *, count: int, tokens: int) -> None:
        self.seen = [Seen() for _ in range(count)]
        self.tasks = [
            asyncio.create_task(one_stream(base, key, model, number, tokens, seen))
            for number, seen in enumerate(self.seen)
        ]

    async def flowing(self) -> None:
        """Until every stream has delivered its first token, or ended."""
        async with asyncio.timeout(STREAM_S_MAX):
            for seen, task in zip(self.seen, self.tasks, strict=True):
                first = asyncio.create_task(seen.first.wait())
                await asyncio.wait({first, task}, return_when=asyncio.FIRST_COMPLETED)
                first.cancel()

    async def ended(self) -> list[Seen]:
        async with asyncio.timeout(STREAM_S_MAX):
            return list(await asyncio.gather(*self.tasks))

    def outcomes(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for seen in self.seen:
            counts[seen.outcome] = counts.get(seen.outcome, 0) + 1
        return counts
