"""`/llms.txt`: what this market answers, for programs that read before they call.

Written from the very document of the API, so that a route is in it because it exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI, Response

ORDER: Final = ("inference", "models", "statistics", "money", "payouts", "accounts", "keys")
"""Sections in this order; any other tag's come after them."""

METHODS: Final = ("get", "post", "patch", "put", "delete")

_PREFACE: Final = """\
Point an OpenAI client at `/v1` of this host with a key `sk-coster-…` as the bearer token. The
whole API with all its shapes is in [OpenAPI](/openapi.json). Errors are
`{"error": {"message", "type", "param", "code"}}`; 429 and 503 say in `Retry-After` when to come
again, and 402 says what is lacking. Amounts are USD: `*_nano_usd` is exact and a string,
`*_micro_usd` an integer. What is under Statistics needs no key and carries an `ETag`.
"""


def add_llms(app: FastAPI) -> None:
    """The route. It is no part of the document that it is written from."""

    @app.get("/llms.txt", include_in_schema=False)
    async def llms() -> Response:
        return Response(llms_text(app.openapi()), media_type="text/plain; charset=utf-8")


def llms_text(document: Mapping[str, Any]) -> str:
    """The index of an OpenAPI document, in the form of llmstxt.org."""
    info = document["info"]
    sections: dict[str, list[str]] = {}
    for tag, line in _lines(document["paths"]):
        sections.setdefault(tag, []).append(line)
    names = [*(tag for tag in ORDER if tag in sections), *sorted(sections.keys() - set(ORDER))]
    parts = [f"# {info['title']}\n", f"> {info['description']}\n", _PREFACE]
    parts += [f"## {name.capitalize()}\n\n" + "\n".join(sections[name]) + "\n" for name in names]
    return "\n".join(parts)


def _lines(paths: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, item in paths.items():
        for method in METHODS:
            operation = item.get(method)
            if operation is not None:
                tag = (operation.get("tags") or ["other"])[0]
                yield tag, _line(path, method, operation)


def _line(path: str, method: str, operation: Mapping[str, Any]) -> str:
    told = operation.get("description") or operation.get("summary") or ""
    sentence = " ".join(told.split("\n\n")[0].split())
    pointer = path.replace("~", "~0").replace("/", "~1")
    plain = method == "get" and "{" not in path
    link = path if plain else f"/openapi.json#/paths/{pointer}/{method}"
    return f"- [{method.upper()} {path}]({link}): {sentence}{_needs(operation)}"


def _needs(operation: Mapping[str, Any]) -> str:
    if not operation.get("security"):
        return ""
    scopes = operation.get("x-coster-scopes") or []
    if not scopes:
        return " Needs any key."
    return f" Needs a key with {' or '.join(f'`{scope}`' for scope in scopes)}."
