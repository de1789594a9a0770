"""Every parameter of the two inference calls: used, ignored and named, or refused.

One table per call. A parameter that would change the answer and is not built yet is
refused; an advisory one is ignored and named in a header; so is one nobody knows. The
OpenAPI document is written from the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from market import sampling_bounds as bounds
from market.errors import InvalidRequest
from market.types import Sampling
from serve_app.checks import (
    MAX_EXACT_INT,
    Check,
    boolean,
    integer,
    logit_bias,
    number,
    stop,
    stream_options,
    string,
)
from serve_app.messages_field import read_messages, read_prompt
from serve_app.wishes import SESSION, SESSION_CHARS, Wishes, check_parameters, read_wishes
from serve_app.wishes import USED as WISHED

Kind = Literal["chat", "completion"]
IGNORED_NAMES = 20  # most names in the header


@dataclass(frozen=True, slots=True)
class Call:
    """A validated inference call. Exactly one of `messages` and `prompt` is set."""

    kind: Kind
    wishes: Wishes
    messages: tuple[dict[str, str], ...]
    prompt: str | tuple[int, ...]
    max_tokens: int | None
    max_tokens_field: str
    sampling: Sampling
    stop: tuple[str, ...]
    n: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]


_MESSAGES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {"$ref": "#/components/schemas/ChatMessage"},
}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
    ]
}

SHARED: Mapping[str, Check] = {
    "model": string(300),
    "max_tokens": integer(1, MAX_EXACT_INT),
    "temperature": number(bounds.TEMPERATURE),
    "top_p": number(bounds.TOP_P),
    "top_k": integer(-1, MAX_EXACT_INT),
    "min_p": number(bounds.MIN_P),
    "frequency_penalty": number(bounds.FREQUENCY_PENALTY),
    "presence_penalty": number(bounds.PRESENCE_PENALTY),
    "repetition_penalty": number(bounds.REPETITION_PENALTY),
    "logit_bias": logit_bias(),
    "seed": integer(bounds.SEED_MIN, bounds.SEED_MAX),
    "stop": stop(),
    "n": integer(1, bounds.CHOICES_MAX),
    "stream": boolean(),
    "stream_options": stream_options(),
    **WISHED,
}
USED: Mapping[Kind, Mapping[str, Check]] = {
    "chat": {
        **SHARED,
        "messages": Check(lambda _, value: read_messages(value), _MESSAGES_SCHEMA),
        "max_completion_tokens": integer(1, MAX_EXACT_INT),
        "logprobs": boolean(),
        "top_logprobs": integer(0, bounds.CHAT_TOP_LOGPROBS_MAX),
    },
    "completion": {
        **SHARED,
        "prompt": Check(lambda _, value: read_prompt(value), _PROMPT_SCHEMA),
        "logprobs": integer(0, bounds.COMPLETION_TOP_LOGPROBS_MAX),
    },
}
REQUIRED: Mapping[Kind, tuple[str, str]] = {
    "chat": ("model", "messages"),
    "completion": ("model", "prompt"),
}

# Refused unless the value asks for what happens anyway.
REFUSED: Mapping[Kind, Mapping[str, tuple[Any, ...]]] = {
    "chat": {
        "tools": ([],),
        "tool_choice": ("none",),
        "functions": ([],),
        "function_call": ("none",),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "web_search_options": (),
    },
    "completion": {"echo": (False,), "suffix": ("",), "best_of": (1,)},
}

# Known and advisory: they change no answer of ours.
ADVISORY: Mapping[Kind, tuple[str, ...]] = {
    "chat": (
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "store",
        "verbosity",
    ),
    "completion": (),
}


def read_call(kind: Kind, body: Mapping[str, Any], route: str | None = None) -> Call:
    """Validate a request body; InvalidRequest names the field that is wrong.

    `route` is the header `x-coster-route`, if it was sent.
    """
    used, refused = USED[kind], REFUSED[kind]
    found: dict[str, Any] = {}
    ignored: list[str] = []
    names: dict[str, str] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in SESSION and type(value) is str and 0 < len(value) <= SESSION_CHARS:
            names[name] = value
            continue
        check = used.get(name)
        if check is not None:
            found[name] = check.apply(name, value)
        elif name not in refused:
            ignored.append(name)
        elif not any(type(value) is type(same) and value == same for same in refused[name]):
            raise InvalidRequest(
                f"{name} is not supported yet and would change the answer or its price; "
                "leave it out.",
                name,
                "unsupported_parameter",
            )
    for name in REQUIRED[kind]:
        if name not in found and not (name == "model" and found.get("models")):
            raise InvalidRequest(f"{name} is required.", name, "missing_field")
    session = next((names[name] for name in SESSION if name in names), "")
    wishes, more = read_wishes(found, session, route)
    call = _assemble(kind, found, wishes, [*ignored, *more])
    check_parameters(found, call.ignored, ignored_header(call.ignored))
    return call


def _assemble(kind: Kind, found: dict[str, Any], wishes: Wishes, ignored: list[str]) -> Call:
    stream = found.get("stream", False)
    if "stream_options" in found and not stream:
        raise InvalidRequest(
            "stream_options is only taken with stream: true.", "stream_options", "invalid_value"
        )
    messages: tuple[dict[str, str], ...] = ()
    if kind == "chat":
        conversation = found["messages"]
        messages = conversation.items
        ignored = [*ignored, *sorted(conversation.ignored)]
    field = "max_completion_tokens" if "max_completion_tokens" in found else "max_tokens"
    if found.get("max_tokens", found.get(field)) != found.get(field):
        raise InvalidRequest(
            f"max_tokens {found['max_tokens']} and max_completion_tokens {found[field]} are two "
            "names of one limit and differ; give one of them.",
            field,
            "invalid_value",
        )
    return Call(
        kind=kind,
        wishes=wishes,
        messages=messages,
        prompt=found.get("prompt", ""),
        max_tokens=found.get(field),
        max_tokens_field=field,
        sampling=_sampling(found),
        stop=found.get("stop", ()),
        n=found.get("n", 1),
        top_logprobs=_top_logprobs(kind, found),
        stream=stream,
        include_usage=found.get("stream_options", False),
        ignored=tuple(ignored),
    )


def _sampling(found: Mapping[str, Any]) -> Sampling:
    temperature, top_p = found.get("temperature", 1.0), found.get("top_p", 1.0)
    if top_p == 0.0:  # a nucleus of nothing but the likeliest token
        temperature, top_p = 0.0, 1.0
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=max(0, found.get("top_k", 0)),  # -1 is widely used for "off"
        min_p=found.get("min_p", 0.0),
        frequency_penalty=found.get("frequency_penalty", 0.0),
        presence_penalty=found.get("presence_penalty", 0.0),
        repetition_penalty=found.get("repetition_penalty", 1.0),
        logit_bias=found.get("logit_bias", ()),
        seed=found.get("seed"),
    )


def _top_logprobs(kind: Kind, found: Mapping[str, Any]) -> int | None:
    if kind == "completion":
        wanted: int | None = found.get("logprobs")
        return wanted
    top: int | None = found.get("top_logprobs")
    if found.get("logprobs", False):
        return top or 0
    if top:
        raise InvalidRequest(
            "top_logprobs is only taken with logprobs: true.", "top_logprobs", "invalid_value"
        )
    return None


def ignored_header(names: tuple[str, ...]) -> str:
    """The ignored parameters for a header; names that are not plain words become `?`."""
    plain = [name if _is_plain(name) else "?" for name in names[:IGNORED_NAMES]]
    more = ["..."] if len(names) > IGNORED_NAMES else []
    return ",".join([*plain, *more])


def _is_plain(name: str) -> bool:
    return len(name) <= 64 and name.isascii() and name.replace("_", "").replace(".", "").isalnum()
