"""Reading `messages` and `prompt`: what a model is asked, as plain text or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from market.errors import InvalidRequest
from serve_app.checks import wrong

MESSAGES = 2_048
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = frozenset({"tool", "function"})
_TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "audio")


@dataclass(frozen=True, slots=True)
class Messages:
    """A conversation for the chat template, and the keys that were not used."""

    items: tuple[dict[str, str], ...]
    ignored: frozenset[str]


def read_messages(value: Any) -> Messages:
    """Check a chat's messages. Content parts of text are joined as they stand."""
    if type(value) is not list:
        raise wrong("messages", "an array of messages", value)
    if not value:
        raise InvalidRequest("messages must hold at least one message.", "messages", "empty")
    if len(value) > MESSAGES:
        raise InvalidRequest(
            f"messages has {len(value)} entries; at most {MESSAGES} are taken.",
            "messages",
            "too_long",
        )
    ignored: set[str] = set()
    items = tuple(_message(f"messages[{at}]", entry, ignored) for at, entry in enumerate(value))
    return Messages(items, frozenset(ignored))


def _message(field: str, value: Any, ignored: set[str]) -> dict[str, str]:
    if type(value) is not dict:
        raise wrong(field, "an object with role and content", value)
    role = value.get("role")
    if type(role) is not str:
        raise wrong(f"{field}.role", "a string", role)
    if role in _TOOL_ROLES:
        raise _unsupported(f"{field}.role", "tool messages are not supported yet")
    if role not in _ROLES:
        raise InvalidRequest(
            f"{field}.role must be system, developer, user or assistant.",
            f"{field}.role",
            "invalid_value",
        )
    for key in _TOOL_KEYS:
        if value.get(key):
            raise _unsupported(f"{field}.{key}", "it is not supported yet")
    if len(value) > 2:
        ignored.update(f"messages.{key}" for key in value if key not in ("role", "content"))
    content = value.get("content")
    if type(content) is not str:
        content = _text_of_parts(f"{field}.content", content)
    return {"role": _ROLES[role], "content": content}


def _text_of_parts(field: str, value: Any) -> str:
    if type(value) is not list:
        raise wrong(field, "a string or an array of text parts", value)
    if not value:
        raise InvalidRequest(f"{field} must hold at least one part.", field, "empty")
    texts: list[str] = []
    for at, part in enumerate(value):
        where = f"{field}[{at}]"
        if type(part) is not dict:
            raise wrong(where, "an object with type and text", part)
        kind = part.get("type")
        if type(kind) is not str:
            raise wrong(f"{where}.type", "a string", kind)
        if kind != "text":
            raise _unsupported(f"{where}.type", "only parts of type text are supported yet")
        text = part.get("text")
        if type(text) is not str:
            raise wrong(f"{where}.text", "a string", text)
        texts.append(text)
    return "".join(texts)


def read_prompt(value: Any) -> str | tuple[int, ...]:
    """A text prompt or token ids; a list of exactly one prompt is that prompt."""
    if type(value) is list and len(value) == 1 and type(value[0]) in (str, list):
        value = value[0]
    if type(value) is str:
        if not value:
            raise InvalidRequest("prompt must not be empty.", "prompt", "empty")
        return value
    if type(value) is not list:
        raise wrong("prompt", "a string or an array of token ids", value)
    if not value:
        raise InvalidRequest("prompt must not be empty.", "prompt", "empty")
    if type(value[0]) in (str, list):
        raise _unsupported("prompt", "send one prompt per request")
    return _token_ids(value)


def _token_ids(value: Sequence[Any]) -> tuple[int, ...]:
    for at, entry in enumerate(value):
        if type(entry) is not int:
            raise wrong(f"prompt[{at}]", "a token id", entry)
        if not 0 <= entry < 2**31:
            raise InvalidRequest(
                f"prompt[{at}] must be a token id of the model.", f"prompt[{at}]", "out_of_range"
            )
    return tuple(value)


def _unsupported(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {why}.", field, "unsupported_parameter")
