"""Files that a test of a trace needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    """Writes a trace; bytes as they are, text as UTF-8."""

    def write(content: str | bytes, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
