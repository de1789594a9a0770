"""The fake on a socket of its own, inside a loop that is already running."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from actors.fake_stripe.app import FakeStripe

log = logging.getLogger("coster.fake_stripe")


@asynccontextmanager
async def serve_fake(
    fake: FakeStripe, port: int = 0, host: str = "127.0.0.1", public_url: str | None = None
) -> AsyncIterator[str]:
    """Serve until the block ends; gives the address. Port 0 takes a free one.

    `public_url` is where a person's browser finds the pages, if that is elsewhere. Raises
    OSError when the port is taken or the state file cannot be written.
    """
    await fake.save()  # a folder that cannot be written to is found now, not at a payment
    listener = _listen(host, port)
    url = f"http://{host}:{listener.getsockname()[1]}"
    fake.world.public_url = (public_url or url).rstrip("/")
    server = uvicorn.Server(
        uvicorn.Config(
            fake,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            ws="none",
        )
    )
    # The process's signals are its owner's; uvicorn must not take them.
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listener])
    serving = asyncio.create_task(server.main_loop())
    postman = asyncio.create_task(fake.run())
    postman.add_done_callback(_tell)
    try:
        yield url
    finally:
        postman.cancel()
        serving.cancel()
        server.should_exit = server.force_exit = True
        await server.shutdown(sockets=[listener])
        await asyncio.gather(postman, serving, return_exceptions=True)


def _listen(host: str, port: int) -> socket.socket:
    # Its protocol is named because asyncio turns Nagle's delay off only where it is: without,
    # an answer of two writes waits 40 ms for the other side's acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _tell(task: asyncio.Task[None]) -> None:
    """A postman that stopped by itself is a fault of ours; payments go on without notices."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("test payments deliver no more notices", exc_info=error)
