"""How every process of the market begins: its log file, and nothing on standard output.

One JSON object per line in DATA/logs/ROLE.log, rotated. Messages are written by us and
hold ids, counts and durations; never a prompt, a completion or a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from market.errors import MarketError
from market.settings import MarketSettings
from storage.database import Away, StorageError

LOG_BYTES_MAX = 10 * 2**20
LOG_FILES_KEPT = 3
FIELDS = ("request_id", "model", "provider", "gate", "code", "status")
"""What a record may carry besides its message, given as `extra`. Nothing else is written."""
AWAY_S = 2.0  # between two tries to open books whose database server is away

MAC: ContextVar[str] = ContextVar("MAC", default="")
"""The name of the Mac that logs, where several share a process."""


class JsonLines(logging.Formatter):
    """One line of JSON per record, exceptions as one string."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if mac := MAC.get():
            line["mac"] = mac
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class CouldNotStart(Exception):
    """Why an actor could not begin, in words for people."""


_TOLD = f"{__name__}.{CouldNotStart.__name__}: "


@contextmanager
def recorded_start() -> Iterator[None]:
    """Log why a process could not begin, and let whoever waits for it read that.

    Ray gives up an actor that could not begin. Of its error it keeps the printed text only, so an
    error of ours rises in a form that `told_reason` finds there.
    """
    try:
        yield
    except Exception as error:
        logging.getLogger("coster").critical("could not start: %s", error)
        if isinstance(error, StorageError | MarketError):
            raise CouldNotStart(str(error)) from None
        raise


def told_reason(printed: str) -> str:
    """What CouldNotStart says in a printed traceback; empty when it is not there."""
    _, found, reason = printed.rpartition(_TOLD)
    return reason.strip() if found else ""


async def begun(start: Callable[[], Awaitable[None]]) -> None:
    """Start, again and again while the server of the books is away; other errors rise.

    Ray starts a process anew that has ended, but gives up an actor that could not begin.
    """
    while True:
        try:
            await start()
        except Away as error:
            log = logging.getLogger("coster")
            log.error("%s Trying again in %.0f s.", error, AWAY_S)  # noqa: TRY400 - no frames
            await asyncio.sleep(AWAY_S)
        else:
            return


def end_process(reason: str) -> None:
    """End this process at once; whoever keeps it starts it again, from what is on disk."""
    logging.getLogger("coster").critical("this process ends: %s", reason)
    logging.shutdown()
    os._exit(1)


def begin_process(role: str, settings: MarketSettings, *also: str) -> None:
    """Send this process's log to its file. Repeated calls change nothing.

    `also` names loggers of libraries whose messages belong there and quote no request.
    """
    root = logging.getLogger("coster")
    if any(isinstance(handler, RotatingFileHandler) for handler in root.handlers):
        return
    folder = Path(settings.data_dir) / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        folder / f"{role}.log", maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_KEPT
    )
    (folder / f"{role}.log").chmod(0o600)
    handler.setFormatter(JsonLines(role))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    for name in also:
        logging.getLogger(name).addHandler(handler)
    root.info("started, pid %d", os.getpid())
