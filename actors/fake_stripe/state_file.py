"""The fake's memory on disk: one JSON file, replaced whole and synced before an answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FORMAT = 1
PARTS: dict[str, type | tuple[type, ...]] = {
    "objects": list,
    "answers": dict,
    "outbox": list,
    "offset_s": (int, float),
}


class UnreadableStateError(Exception):
    """The file is there but is not ours, or not whole; it is left untouched."""


def load_state(path: Path) -> dict[str, Any] | None:
    """What was saved, or None when nothing has been. Raises UnreadableStateError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, type(error).__name__) from None
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable(path, "it is not JSON") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _unreadable(path, f"it is not of format {FORMAT}")
    for name, kind in PARTS.items():
        if not isinstance(state.get(name), kind):
            raise _unreadable(path, f"its {name} are missing")
    return state


def encode_state(state: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **state}, separators=(",", ":")).encode()


def write_state(path: Path, content: bytes) -> None:
    """Replace the file: after a power cut it is the old one or the new one, never half."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unreadable(path: Path, reason: str) -> UnreadableStateError:
    return UnreadableStateError(
        f"The test payments in {path} cannot be read ({reason}). Restore the file from a copy, "
        "or move it away to begin without any payments."
    )
