"""Connections to a ledger on PostgreSQL: who may, with which guarantees, and what went wrong.

The guarantees of the SQLite file have their equals here. The writer's session holds an
advisory lock instead of a locked file, so it must be a session: connect to the server itself
and not through a pooler. Durability is the server's `fsync`, `full_page_writes` and
`synchronous_commit`; they are read back and anything less is refused. Everything has a limit
in seconds, so that a server that hangs is an error and not a wait.

Errors name the database without its password, and never quote what a row holds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from storage.database import Away, StorageError
from storage.folder_lock import LOCK_POLL_S

SCHEME: Final = "postgresql+asyncpg"
FORM: Final = f"{SCHEME}://USER:PASSWORD@HOST:PORT/DATABASE"
CONNECT_S_MAX: Final = 10.0
STATEMENT_S_MAX: Final = 30.0
ANSWER_S_MAX: Final = STATEMENT_S_MAX + 5.0  # the server's own limit comes first
LOCK_KEY: Final = int.from_bytes(b"coster", "big")  # of the one writer; per database

FAULTS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # refused, reset, not found, timed out
)
"""Whatever the driver raises when the database cannot do what it is asked."""

_AWAY: Final = (
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it is being shut down
    OSError,
)
LOST: Final = "the connection was lost"

_NEEDED: Final = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_SETTINGS: Final = (
    "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[]) ORDER BY name"
)
_SERVER: Final = (
    "SELECT current_setting('server_version'), current_setting('server_encoding'), "
    "pg_is_in_recovery(), has_database_privilege(current_database(), 'CREATE')"
)
_HOLDER: Final = """
SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'the same machine')
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (l.classid::bigint << 32) + l.objid::bigint = $1
"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ledger is. `dsn` holds the password; `name` is what may be shown."""

    dsn: str = field(repr=False)
    name: str

    @classmethod
    def of(cls, database: str) -> Address:
        """Read a `--database` URL; raises StorageError, without quoting it."""
        try:
            url = make_url(database)
        except (ArgumentError, ValueError) as error:
            raise StorageError(f"--database is not a URL; it must look like {FORM}.") from error
        if url.drivername != SCHEME or not url.database:
            raise StorageError(
                f"--database must look like {FORM}; this one begins with {url.drivername}:// and "
                f"names {'a' if url.database else 'no'} database."
            )
        host = url.host or url.query.get("host") or "localhost"  # a socket's folder is in the query
        where = f"{host}:{url.port or url.query.get('port') or 5432}/{url.database}"
        plain = url.set(drivername="postgresql")
        return cls(plain.render_as_string(hide_password=False), f"postgresql://{where}")


def arguments(address: Address, purpose: str, *, read_only: bool) -> dict[str, Any]:
    """What asyncpg connects with: durable commits, limits on every wait, our name to be found."""
    limit_ms = str(int(STATEMENT_S_MAX * 1000))
    settings = {
        "application_name": f"coster {purpose}, pid {os.getpid()} on {socket.gethostname()}"[:63],
        "default_transaction_read_only": "on" if read_only else "off",
        "synchronous_commit": "on",
        "statement_timeout": limit_ms,
        "lock_timeout": limit_ms,
        "idle_in_transaction_session_timeout": "0" if read_only else limit_ms,
        # A writer that has vanished is noticed within half a minute, and its lock is freed.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "4",
        "jit": "off",  # our statements are too short to be worth compiling
    }
    return {
        "dsn": address.dsn,
        "timeout": CONNECT_S_MAX,
        "command_timeout": ANSWER_S_MAX,
        "statement_cache_size": 256,
        "max_cached_statement_lifetime": 0,
        "server_settings": settings,
    }


async def connect(address: Address, purpose: str, *, read_only: bool = False) -> asyncpg.Connection:
    """One session; raises StorageError with the reason and the fix."""
    try:
        return await asyncpg.connect(**arguments(address, purpose, read_only=read_only))
    except FAULTS as error:
        raise refused(error, address, "opened") from error


def engine(address: Address, purpose: str, *, read_only: bool = False) -> AsyncEngine:
    """SQLAlchemy over such sessions, for migrations and for read queries. Keeps none open."""
    wanted = arguments(address, purpose, read_only=read_only)

    async def creator(*_: object, **__: object) -> asyncpg.Connection:
        return await asyncpg.connect(**wanted)

    return create_async_engine(f"{SCHEME}://", async_creator=creator, poolclass=NullPool)


def refused(error: BaseException, address: Address, what: str) -> StorageError:
    """What the driver said as our error: `what` could not be done, why, and what to do."""
    why, fix = _explained(error)
    kind = Away if isinstance(error, _AWAY) or why == LOST else StorageError
    return kind(f"The ledger {address.name} could not be {what}: {why}. {fix}".rstrip())


def _explained(error: BaseException) -> tuple[str, str]:
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return (
                "the server does not accept this user with this password",
                "Check both, and the server's pg_hba.conf.",
            )
        case asyncpg.InvalidCatalogNameError():
            return "there is no such database", "Make it first: createdb --owner=USER DATABASE."
        case asyncpg.CannotConnectNowError():
            return "the server is just starting or stopping", "Try again in a moment."
        case TimeoutError() | asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return (
                "the server did not answer in time",
                "Check its load and its disk, and the network to it.",
            )
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.AdminShutdownError()
            | asyncpg.CrashShutdownError()
        ):
            return LOST, "Check that the server runs, and the network to it."
        case asyncpg.PostgresError():
            # Its `detail` may quote a row; its message does not.
            return str(error.args[0]) if error.args else type(error).__name__, ""
        case asyncpg.DataError():
            return "a value does not fit its column", ""
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            said = str(error.args[0]) if error.args else type(error).__name__
            return (LOST if "closed" in said else said), ""
        case OSError():
            number = os.strerror(error.errno) if error.errno else type(error).__name__
            reason = error.strerror if isinstance(error, socket.gaierror) else number
            return (
                f"nobody answers there ({reason})",
                "Check the address, that the server runs, and the network to it.",
            )
    return type(error).__name__, ""


async def server_of(connection: asyncpg.Connection) -> str:
    """Which server it is, for people."""
    version, *_ = await connection.fetchrow(_SERVER)
    return f"PostgreSQL {version}"


async def unsafe_settings(connection: asyncpg.Connection) -> list[str]:
    """The settings with which an acknowledged commit could be lost, as `name=value`."""
    found = await connection.fetch(_SETTINGS, list(_NEEDED))
    return [f"{name}={value}" for name, value in found if value != _NEEDED[name]]


async def check_server(connection: asyncpg.Connection, address: Address) -> None:
    """Raise StorageError unless this server keeps what it has acknowledged."""
    _, encoding, standby, owner = await connection.fetchrow(_SERVER)
    if standby:
        raise StorageError(f"{address.name} is a standby; give the address of its primary.")
    if encoding != "UTF8":
        raise StorageError(
            f"{address.name} is encoded in {encoding}; make a database with --encoding=UTF8."
        )
    if not owner:
        raise StorageError(
            f"This user may not create anything in {address.name}; make it the database's owner: "
            "ALTER DATABASE … OWNER TO …."
        )
    unsafe = await unsafe_settings(connection)
    if unsafe:
        needed = ", ".join(f"{name}={value}" for name, value in _NEEDED.items())
        raise StorageError(
            f"The ledger {address.name} cannot be opened safely: the server has "
            f"{', '.join(unsafe)}, so it may lose what it acknowledged. Set {needed}."
        )


async def lock(connection: asyncpg.Connection, address: Address, wait_s: float) -> None:
    """Take the one writer's lock for as long as this session lives.

    Waits for a predecessor that is just going away. Raises StorageError, naming the holder,
    after `wait_s` seconds.
    """
    attempts = max(1, int(wait_s / LOCK_POLL_S))
    for attempt in range(attempts):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            return
        if attempt + 1 < attempts:
            await asyncio.sleep(LOCK_POLL_S)
    holders: Sequence[Any] = await connection.fetch(_HOLDER, LOCK_KEY)
    who = "another session"
    for pid, name, client in holders:
        who = f"{name or 'an unnamed program'} (server process {pid}, from {client})"
    raise StorageError(
        f"The ledger {address.name} is in use by {who}. Stop that market first, or give this one "
        "a database of its own."
    )
