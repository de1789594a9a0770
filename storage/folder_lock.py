"""Who may write in a data folder: one process at a time."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from storage.database import StorageError

LOCK_FILE: Final = "ledger.lock"
LOCK_POLL_S: Final = 0.1


class FolderLock:
    """The right to write in a data folder: an exclusive `flock`, freed when we die."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._fd: int | None = None

    async def acquire(self, wait_s: float) -> None:
        """Take the lock, waiting for a predecessor that is just going away.

        Raises StorageError, naming the holder's pid, after `wait_s` seconds.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        attempts = max(1, int(wait_s / LOCK_POLL_S))
        for attempt in range(attempts):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < attempts:
                    await asyncio.sleep(LOCK_POLL_S)
        else:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StorageError(
                f"The ledger in {self._path.parent} is in use by the process {holder}. "
                "Stop that market first, or choose another folder with --data."
            )
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:
            os.close(fd)
            raise self._unusable(error) from error
        self._fd = fd

    def _unusable(self, error: OSError) -> StorageError:
        what = (
            "Make room on its disk"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Give your user read and write access to the data folder"
        )
        return StorageError(
            f"The lock file {self._path} cannot be written: {error.strerror}. {what}."
        )

    def release(self) -> None:
        """Let the next one in. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
