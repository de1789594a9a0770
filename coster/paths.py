"""Where a market keeps its things, and which modes they have.

DATA holds what must last: the books, the secrets, the machine ids, the logs. The run
folder holds sockets and Ray's session; its path is short because socket paths are limited
to 104 bytes, and it is derived from DATA so that two markets never share one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from market.errors import InvalidRequest

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class MarketPaths:
    """The folders and files of one market."""

    data: Path

    @property
    def run_file(self) -> Path:
        return self.data / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.data / "up.lock"

    @property
    def run_dir(self) -> Path:
        name = hashlib.sha256(str(self.data).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"coster-{os.getuid()}-{name}"

    def secret_file(self, name: str) -> Path:
        return self.data / "secrets" / name

    def prepare(self) -> None:
        """Make the folders, private to this user. Raises InvalidRequest with the fix."""
        try:
            for folder in (self.data, self.data / "secrets", self.data / "logs", self.run_dir):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            probe = self.data / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InvalidRequest(
                f"{error.filename or self.data} cannot be used ({error.strerror}); choose a folder "
                "you own with --data DIR, or mend its owner and modes.",
                "data",
                "data_unusable",
            ) from error
        if self.run_dir.stat().st_uid != os.getuid():
            raise InvalidRequest(
                f"{self.run_dir} belongs to another user; set TMPDIR to a folder of yours.",
                "data",
                "data_unusable",
            )

    def secret(self, name: str) -> bytes:
        """The named secret's raw bytes, made on first use (0600)."""
        path = self.secret_file(name)
        if not path.exists():
            write_private(path, secrets.token_hex(SECRET_BYTES))
        try:
            return bytes.fromhex(path.read_text().strip())
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"{path} is unreadable or not hexadecimal; restore it from a backup.", "data"
            ) from error

    def text_secret(self, name: str) -> str | None:
        """A secret kept as text, such as a demo key; None when it was never written."""
        path = self.secret_file(name)
        return path.read_text().strip() if path.exists() else None


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically; nobody else can read it at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def default_data_dir() -> Path:
    """COSTER_DATA, else the user's data folder."""
    if chosen := os.environ.get("COSTER_DATA"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_DATA_HOME", "~/.local/share")
    return (Path(base).expanduser() / "coster").resolve()
