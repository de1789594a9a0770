"""One plot of a sweep as a file of its own."""

from __future__ import annotations

import re
from pathlib import Path

from market.errors import InvalidRequest
from simulator.report.page import head, page, plots, style
from simulator.report.plots_of import POLICY, measure_plot
from simulator.results import folders


def write_plot(folder: Path, x: str, y: str, by: str = POLICY, out: Path | None = None) -> Path:
    """A page with the plot and its table; a file ending in .svg gets the plot alone.

    Raises InvalidRequest for a folder of one run, or for names that are not in it.
    """
    manifest = folders.read_manifest(folder)
    if manifest["kind"] == "run" or not manifest["complete"]:
        raise InvalidRequest(
            f"{folder} is one run, or not complete; a plot needs what `coster sim sweep` or "
            "`compare` has finished.",
            "folder",
        )
    summary = folders.read_json(folder / folders.SUMMARY)
    figure = measure_plot(summary, x, y, by)
    title = f"{summary['name']}: {y} over {x}"
    name = re.sub(r"[^\w.-]+", "-", f"plot-{y}-over-{x}-by-{by}.html")
    path = out if out is not None else folder / name
    if path.suffix == ".svg":
        text = _alone(figure)
    else:
        text = page(title, [head(title, f"One curve per {by}."), plots([figure])])
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise folders.unwritable(path, error) from error
    return path


def _alone(figure: str) -> str:
    """The plot as an image: what the page's style says is put into it."""
    found = re.search(r"<svg viewBox=\"0 0 \d+ \d+\" role=.*?</svg>", figure, re.DOTALL)
    assert found is not None
    start, rest = found[0].split(">", 1)
    return f'{start} xmlns="http://www.w3.org/2000/svg"><style>{style()}</style>{rest}\n'
