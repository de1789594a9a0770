"""What `coster up` tells its operator to type next can be typed."""

from __future__ import annotations

import pytest

from coster.up import name_to_type


@pytest.mark.parametrize(
    ("argv0", "on_path", "name"),
    [
        ("/venv/bin/coster", "/venv/bin/coster", "coster"),
        ("/venv/bin/coster", None, "/venv/bin/coster"),
        ("/src/coster/__main__.py", None, "/venv/bin/python -m coster"),
        ("/src/coster/__main__.py", "/venv/bin/coster", "coster"),
        ("-m", None, "/venv/bin/python -m coster"),
    ],
)
def test_the_name_in_hints_can_be_typed(argv0: str, on_path: str | None, name: str) -> None:
    """The command where the shell finds it, else what was started, a module as a module."""
    assert name_to_type(argv0, on_path, "/venv/bin/python") == name
