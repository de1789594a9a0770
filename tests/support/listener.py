"""The operator's listener over a real accountant on a real port, as the commands find it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvicorn

from coster.compose import admin_key
from coster.paths import MarketPaths
from coster.runfile import RunningMarket, write_run
from serve_app.admin import create_admin_app
from tests.support.ledger_bench import start
from tests.support.live_fleet import LiveFleet
from tests.support.operations import admin_over

START_S_MAX = 30.0


@contextmanager
def listening(
    data: Path,
    payments: object | None = None,
    fleet: LiveFleet | None = None,
    **settings: object,
) -> Iterator[None]:
    """A market of an accountant and its operator's listener, recorded in run.json; with a router
    where there is a fleet for one.
    """
    paths = MarketPaths(data)
    paths.prepare()
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    ready = threading.Event()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        bench = await start(data, **settings)  # type: ignore[arg-type]
        try:
            await bench.do(bench.admit("req_1"))
            await bench.do(bench.settle("req_1"))
            router = await fleet.start(data) if fleet is not None else None
            admin = admin_over(bench.accountant, data, payments, router)
            app = create_admin_app(admin, admin_key(paths))
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
            servers.append(server)
            ready.set()
            await server.serve(sockets=[opened])
        finally:
            if fleet is not None:
                await fleet.close()
            await bench.accountant.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="listener")
    thread.start()
    assert ready.wait(START_S_MAX)
    base = f"http://127.0.0.1:{opened.getsockname()[1]}"
    since_s = psutil.Process().create_time()
    write_run(paths, RunningMarket(os.getpid(), since_s, f"{base}/v1", base, "0", ready=True))
    try:
        yield
    finally:
        servers[0].should_exit = True
        thread.join(START_S_MAX)
        opened.close()
        paths.run_file.unlink()
        assert not thread.is_alive()
