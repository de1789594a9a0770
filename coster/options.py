"""The options that many commands share, said once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from coster.output import fail
from market.errors import MarketError

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="The market's data folder [default: COSTER_DATA or ~/.local/share/coster]."
    ),
]
Url = Annotated[str | None, typer.Option("--url", help="The API's base, ending in /v1.")]
Key = Annotated[str | None, typer.Option("--key", help="API key [default: COSTER_API_KEY].")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Turn a MarketError into its message and exit code."""
    try:
        yield
    except MarketError as error:
        fail(error, as_json=as_json)
