"""Laws of the notebooks: what the documentation shows can be run, cell by cell, as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)
SAID = {
    "own_scorer.py": ("first token: half within", "soonest", "e2e_s.mean", "report.html"),
    "what_if.py": ("twelve M2 Pro", "whole answer / empty fleet", "regret: mean", "report.html"),
}
"""What each must have said in the end."""


def cells(text: str) -> list[tuple[bool, str]]:
    """Whether each is prose, and what is in it."""
    parts = CELL.split(text)
    assert parts[0] == "", "a notebook begins with a cell"
    return [
        (kind.strip() == "[markdown]", body)
        for kind, body in zip(parts[1::2], parts[2::2], strict=True)
    ]


def test_each_notebook_is_known() -> None:
    """None lies there that is not run below, and the page on research links all of them."""
    page = (FOLDER.parent / "research.md").read_text("utf-8")

    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == SAID.keys()
    for name in SAID:
        assert f"](notebooks/{name})" in page


@pytest.mark.parametrize("name", SAID)
def test_a_notebook_runs_from_the_first_cell_to_the_last(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a screen, in one namespace, in an empty folder, in which alone it writes."""
    monkeypatch.chdir(tmp_path)
    kept: dict[str, object] = {"__name__": "__main__"}

    for number, (is_prose, body) in enumerate(cells((FOLDER / name).read_text("utf-8"))):
        if is_prose:
            assert all(line.startswith("#") for line in body.split("\n") if line), body
        else:
            exec(compile(body, f"{name}, cell {number}", "exec"), kept)

    said = capsys.readouterr().out
    for words in SAID[name]:
        assert words in said
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    report = tmp_path / said.rpartition("open ")[2].strip()
    assert report.read_text("utf-8").startswith("<!doctype html>")
