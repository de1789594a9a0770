"""A private PostgreSQL for tests and benchmarks: its own folder, port and user, ended with us.

It is as durable as a real one (`fsync` is on by default), because durability is tested. The server
refuses to run as root, so as root it is started as the `postgres` user of its package.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import psutil

REQUIRED = os.environ.get("COSTER_REQUIRE_POSTGRES") == "1"
OWNER = "coster"
START_S_MAX = 60.0
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 * 2**30


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest that is installed, or None."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """One running server. Databases are made and named by tests, as many as they like."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._user = "postgres" if os.getuid() == 0 else None
        self.password = secrets.token_hex(8)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def create(self) -> None:
        """Make the cluster of databases; the role `coster` owns what tests use."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        word = self._folder / "password"
        word.write_text(self.password)
        if self._user:
            shutil.chown(word, self._user)
        self._run(
            "initdb", "-D", str(self._data), "-U", "root", "-A", "scram-sha-256",
            "--pwfile", str(word), "--no-sync", "-E", "UTF8", "--locale=C.UTF-8",
        )  # fmt: skip

    def start(self, **settings: str) -> None:
        """Start the server with these settings, on the port it had before if it had one."""
        self.port = self.port or _free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "max_connections": "60",
            "shared_buffers": "32MB",
            "dynamic_shared_memory_type": "mmap",  # in its folder: a kill leaves nothing behind
            "checkpoint_timeout": "1h",  # nobody waits for one here, and the disk is shared
            "max_wal_size": "4GB",
            "log_min_messages": "fatal",
            **settings,
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        ends_s = time.monotonic() + START_S_MAX
        while self._ready() != 0:
            if self._process.poll() is not None or time.monotonic() > ends_s:
                raise RuntimeError(f"PostgreSQL did not start: {self._log()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a power cut would: every process of it at once, with SIGKILL."""
        assert self._process is not None
        workers = psutil.Process(self._process.pid).children()
        self._process.kill()  # first, so that it starts no worker anew
        self._process.wait()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers, timeout=20)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let the server hang: it listens, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, whoever is connected; its folder goes anyway."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()

    def url(self, database: str, *, password: str | None = None, port: int | None = None) -> str:
        """What `--database` takes."""
        word = self.password if password is None else password
        where = f"127.0.0.1:{port or self.port}"
        return f"postgresql+asyncpg://{OWNER}:{word}@{where}/{database}"

    async def run(self, *statements: str, database: str = "postgres", role: str = "root") -> None:
        """Carry out SQL, as the superuser unless told otherwise."""
        connection = await self.connect(database, role)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def connect(self, database: str, role: str = "root") -> asyncpg.Connection:
        """A connection of our own, for looking and for doing harm."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=role, password=self.password, database=database
        )

    async def prepare_role(self) -> None:
        """The role that a market uses: no superuser, owner of its database."""
        await self.run(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{self.password}'")

    async def new_database(self, template: str = "template1") -> str:
        """A fresh database, a copy of `template`; its name."""
        self._databases += 1
        name = f"market_{self._databases}"
        await self.run(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}")
        return name

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _ready(self) -> int:
        return subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
        ).returncode

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *words],
            user=self._user,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        everyone = [psutil.Process(self._process.pid)]
        everyone += everyone[0].children()
        for process in everyone:
            process.send_signal(number)

    def _log(self) -> str:
        return (self._folder / "log").read_text("utf-8", "replace")[-1000:]


@contextmanager
def running_postgres(*, on_disk: bool = True) -> Iterator[Postgres]:
    """A server for the length of a with-block. Raises RuntimeError where there is none.

    Not `on_disk`: where memory serves as a disk and has room, in memory. A killed process
    loses no more there, and hundreds of databases do not wear out a disk others share.
    """
    programs = binaries()
    if programs is None:
        raise RuntimeError("PostgreSQL's programs are not installed (postgresql-15)")
    # Not in pytest's own folder: that one is closed to the server's user.
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    place = None if on_disk or not roomy else MEMORY
    folder = Path(tempfile.mkdtemp(prefix="coster-pg-", dir=place))
    server = Postgres(programs, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
