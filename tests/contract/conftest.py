"""Fixtures the contract suites share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the random model, built once."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))
