"""The market's pepper: 32 secret bytes beside the data, without which key hashes say nothing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from market.keys import PEPPER_BYTES
from storage.database import StorageError, prepare_folder

SECRETS_FOLDER: Final = "secrets"
PEPPER_FILE: Final = "pepper"


def load_pepper(folder: Path) -> bytes:
    """The pepper of a data folder, made on first use; the file is 0600 and never changes.

    Raises StorageError when it cannot be read or is damaged: with another pepper, every
    key of the market would be refused.
    """
    place = folder / SECRETS_FOLDER
    path = place / PEPPER_FILE
    prepare_folder(place)
    try:
        _create(path)
        pepper = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"The secret file {path} cannot be used: {error.strerror}. "
            "Give your user read and write access to it."
        ) from error
    if len(pepper) != PEPPER_BYTES:
        raise StorageError(
            f"The secret file {path} is damaged: {len(pepper)} bytes instead of {PEPPER_BYTES}. "
            "Restore it from a backup; without it no existing API key works."
        )
    return pepper


def _create(path: Path) -> None:
    """Write a fresh pepper unless there is one: whole or not at all, whoever else tries."""
    if path.exists():
        return
    draft = path.with_name(f"{PEPPER_FILE}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(secrets.token_bytes(PEPPER_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # fails if another process was first, and its pepper stays
    except FileExistsError:
        pass
    finally:
        draft.unlink()
