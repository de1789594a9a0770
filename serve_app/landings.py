"""Where a person lands after a payment processor's hosted page: one sentence and the next step.

Plain HTML without scripts, readable in the dark. It knows nothing about the payment and says
nothing about it that could be wrong: the account's own routes are the ones that know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Final

from fastapi import FastAPI, Response

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
}
_STYLE: Final = """
:root{color-scheme:light dark}
body{font:1rem/1.6 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;
place-items:center;background:light-dark(#f6f5f1,#16171a);color:light-dark(#1c1d20,#ecebe6)}
main{box-sizing:border-box;width:min(28rem,92vw);margin:2rem 0;padding:2rem;border-radius:1rem;
background:light-dark(#fff,#202226);border:1px solid light-dark(#dcd9d0,#3a3d42)}
h1{font-size:1.3rem;margin:0 0 .6rem}p{margin:.6rem 0}
code{font:.95em ui-monospace,monospace;padding:.1rem .35rem;border-radius:.3rem;
background:light-dark(#f0eee8,#2c2f34)}
"""
_PAGES: Final = {
    "/paid": (
        "Thank you",
        "Your credit is there within seconds of the payment's confirmation. Close this page.",
        "coster balance",
    ),
    "/paid/cancelled": (
        "Nothing was paid",
        "The payment page was left. It stays open for a day, and paying later is fine.",
        "coster topup 25",
    ),
    "/payouts/done": (
        "That is all for now",
        "If anything is still missing, the account says what. You can close this page.",
        "coster payouts list",
    ),
}


def add_landings(app: FastAPI) -> None:
    """The three pages. They are no part of the API and of its document."""
    for path, (title, text, command) in _PAGES.items():
        app.add_api_route(
            path, _page(title, text, command), methods=["GET"], include_in_schema=False
        )


def _page(title: str, text: str, command: str) -> Callable[[], Awaitable[Response]]:
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(text)}</p>"
        f"<p>On the command line: <code>{escape(command)}</code></p>"
        "</main></body></html>"
    )

    async def show() -> Response:
        return Response(body, media_type="text/html; charset=utf-8", headers=HEADERS)

    return show
