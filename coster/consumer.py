"""What a consumer does: chat, balance."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from coster.options import Data, Json, Key, Url, reported
from coster.output import print_json, styled
from market.catalogue import DEMO_MODEL

MEASURABLE_S = 0.05


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(chat)
    app.command()(balance)


def chat(
    prompt: Annotated[str | None, typer.Argument(help="One question; without it, a talk.")] = None,
    model: Annotated[str | None, typer.Option(help="Model id [default: the first served].")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Talk to a model; prints what it cost."""
    from coster.market_http import api

    with reported(as_json=json):
        connection = api(data, url, key, "demo_key")
        model = model or _served_model(connection)
        messages: list[dict[str, str]] = []
        while True:
            text = prompt if prompt is not None else _ask()
            if text is None:
                return
            messages.append({"role": "user", "content": text})
            answer = _answer(connection, model, messages, max_tokens, as_json=json)
            messages.append({"role": "assistant", "content": answer})
            if prompt is not None:
                return


def _ask() -> str | None:
    try:
        asked = sys.stdin.isatty()
        text = input(styled("you › ", "bold", sys.stdout) if asked else "")
    except EOFError:
        return None
    return text if text.strip() else _ask()


def _served_model(connection: Any) -> str:
    models = connection.request("GET", "models")["data"]
    for entry in models:
        if entry.get("ready_providers", entry.get("providers", 0)):
            return str(entry["id"])
    return str(DEMO_MODEL)


def _answer(
    connection: Any, model: str, messages: list[dict[str, str]], limit: int | None, *, as_json: bool
) -> str:
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if limit is not None:
        body["max_tokens"] = limit
    began_s = time.monotonic()
    first_s: float | None = None
    parts: list[str] = []
    usage: dict[str, Any] = {}
    for event in connection.stream("chat/completions", body):
        if error := event.get("error"):
            from market.errors import Unavailable

            raise Unavailable(str(error.get("message")), None, error.get("code"))
        usage = event.get("usage") or usage
        for choice in event.get("choices", []):
            piece = choice["delta"].get("content") or ""
            if piece and first_s is None:
                first_s = time.monotonic() - began_s
            parts.append(piece)
            if not as_json:
                sys.stdout.write(piece)
                sys.stdout.flush()
    text = "".join(parts)
    if as_json:
        print_json({"model": model, "content": text, "usage": usage})
    else:
        sys.stdout.write("\n" + styled(_receipt(usage, first_s, began_s), "dim", sys.stdout) + "\n")
    return text


def _receipt(usage: dict[str, Any], first_s: float | None, began_s: float) -> str:
    total_s = time.monotonic() - began_s
    out = usage.get("completion_tokens", 0)
    decode_s = total_s - (first_s or 0.0)
    # Tokens that came in one burst say nothing about the speed of the Mac.
    speed = f" · {out / decode_s:.0f} tok/s" if decode_s >= MEASURABLE_S else ""
    return (
        f"╰ {usage.get('prompt_tokens', 0)} in · {out} out · first token "
        f"{first_s or total_s:.2f} s{speed} · ${usage.get('cost_usd', 0):.9f}"
    )


def balance(data: Data = None, url: Url = None, key: Key = None, json: Json = False) -> None:
    """What the account has, holds and may withdraw."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, "demo_key").request("GET", "payments/balance")
    if json:
        print_json(answer)
        return
    sys.stdout.write(
        f"Balance       ${answer['balance_usd']:.6f}\n"
        f"Held          ${answer.get('held_usd', 0):.6f}  by running requests\n"
        f"Withdrawable  ${answer['withdrawable_usd']:.6f}\n"
    )
    if int(answer["maturing_nano_usd"]):
        sys.stdout.write(
            f"Maturing      ${answer['maturing_usd']:.6f}  besides: earned, and held back for now\n"
        )
