"""The yardstick: a FastAPI StreamingResponse of ready-made chunks on one uvicorn worker.

Nothing is parsed, routed, computed or paid for: it is what the framework alone can do with
as many bytes, and with `--pace-ms` what the operating system makes of a steady stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from benchmarks.common import STREAM_TOKENS

WORDS = ("one", " two", " three", " four", " five", " six", " seven", " eight")


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    """An event of the very shape and nearly the size of the market's."""
    event = {
        "id": "chatcmpl-01m7y2s7qpyb3kxzd5gpavvgcy",
        "object": "chat.completion.chunk",
        "created": 1_795_232_145,
        "model": "coster/demo",
        "system_fingerprint": None,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def make_app(pace_ms: float) -> FastAPI:
    """The app with its one route."""
    chunks = [chunk({"content": WORDS[i % len(WORDS)]}) for i in range(STREAM_TOKENS)]
    end = chunk({}, "length") + b"data: [DONE]\n\n"
    app = FastAPI()

    async def at_once() -> AsyncIterator[bytes]:
        for each in chunks:
            yield each
        yield end

    async def paced() -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        for each in chunks:
            yield each
            next_s += pace_ms / 1e3
            await asyncio.sleep(max(0.0, next_s - loop.time()))
        yield end

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(paced() if pace_ms else at_once(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace-ms", type=float, default=0.0)
    asked = parser.parse_args()
    uvicorn.run(
        make_app(asked.pace_ms),
        host="127.0.0.1",
        port=asked.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
