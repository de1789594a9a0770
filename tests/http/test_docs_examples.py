"""The Python that docs/consumer.md shows, run as it stands against a market."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serve_app.preferences import FIELDS
from serve_app.wishes import SUFFIXES, USED
from tests.http.conftest import Server
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import routed_market

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "consumer.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_example_runs_as_it_is_shown(tmp_path: Path, capsys: Any) -> None:
    """In the order of the page, with nothing changed but the address and the key."""
    market = routed_market(tmp_path, Mac("a"), Mac("b", ask_pct=50))
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 5
    shown: dict[str, Any] = {}
    with Server(market) as server:
        try:
            for block in blocks:
                code = block.replace("http://127.0.0.1:8000/v1", server.base_url)
                exec(code.replace("sk-coster-…", Market.KEY), shown)
        finally:
            if "client" in shown:
                shown["client"].close()

    printed = capsys.readouterr().out.split()
    assert printed[0] == "coster/demo", "who has fallen back says to whom"
    assert shown["answer"].usage.completion_tokens > 0
    assert shown["quote"]["provider"] in ("prv_a", "prv_b")
    wished = [request.preferences for request in market.fleet.requests]
    assert "price" in {preferences.sort for preferences in wished}
    assert {preferences.own for preferences in wished} == {None, "prefer"}


def test_the_page_names_every_wish() -> None:
    """What can be wished can be found."""
    text = PAGE.read_text()
    for name in (*FIELDS, *USED, *SUFFIXES):
        assert f"`{name}" in text, name
