"""Telling where an unexpected exception came from without quoting anything it carries."""

from __future__ import annotations

import traceback
from pathlib import PurePath

FRAMES = 8


def describe_fault(error: BaseException) -> str:
    """Its type and innermost frames. Never its message: that may hold a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    where = " > ".join(f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in frames)
    return f"{type(error).__name__} at {where or 'unknown'}"
