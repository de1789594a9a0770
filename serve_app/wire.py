"""The bytes of an inference answer: SSE chunks and whole JSON, chat and completions.

What is the same in every chunk of a stream is encoded once, when the stream starts; per
token only its text goes through the JSON encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from market.errors import MarketError
from market.types import ProviderId, RequestId, TokenLogprob, Usage
from serve_app.envelope import error_object
from serve_app.parameters import Kind

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": queued\n\n"
END = b"}\n\n"


@dataclass(slots=True)
class ChoiceText:
    """What one choice of a whole answer came to."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """What the final usage says besides tokens.

    `shares` are the completion tokens of each Mac, in the order in which they said them, where
    more than one did.
    """

    usage: Usage
    cost_nano: int
    provider: ProviderId
    attempts: int
    shares: tuple[tuple[ProviderId, int], ...] = ()


def usage_object(bill: Bill) -> dict[str, Any]:
    """OpenAI's usage and the exact cost; micro-USD is the floor of the nano sum."""
    usage = bill.usage
    shares = [{"provider": who, "completion_tokens": tokens} for who, tokens in bill.shares]
    return {
        **({"providers": shares} if shares else {}),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "cost_nano_usd": str(bill.cost_nano),
        "cost_micro_usd": bill.cost_nano // 1_000,
        "cost_usd": bill.cost_nano / 1_000_000_000,
        "provider": bill.provider,
        "attempts": bill.attempts,
    }


class Wire:
    """Encodes one request's answer. `created_s` is Unix seconds."""

    def __init__(
        self,
        kind: Kind,
        request_id: RequestId,
        model: str,
        created_s: int,
        *,
        include_usage: bool,
        service_tier: str | None = None,
    ) -> None:
        """`service_tier` is what was asked for, if anything; the one that served is told."""
        self._chat = kind == "chat"
        stem = request_id.removeprefix("req_")
        self._shape: dict[str, Any] = {
            "id": f"chatcmpl-{stem}" if self._chat else f"cmpl-{stem}",
            "object": "chat.completion" if self._chat else "text_completion",
            "created": created_s,
            "model": model,
            "system_fingerprint": None,
        }
        if service_tier is not None:
            self._shape["service_tier"] = "flex" if service_tier == "flex" else "default"
        chunk = dict(self._shape)
        if self._chat:
            chunk["object"] = "chat.completion.chunk"
        self._head = b"data: " + orjson.dumps(chunk)[:-1] + b',"choices":'
        self._tail = b',"usage":null' + END if include_usage else END
        self._open0, self._close = self._text_frame(0)

    def _text_frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the text in a chunk without log-probabilities."""
        start = self._head + b'[{"index":%d,' % index
        if self._chat:
            close = b'},"logprobs":null,"finish_reason":null}]' + self._tail
            return start + b'"delta":{"content":', close
        return start + b'"text":', b',"logprobs":null,"finish_reason":null}]' + self._tail

    def role(self, index: int) -> bytes:
        """The first chunk of a choice; completions have none."""
        if not self._chat:
            return b""
        delta = b'[{"index":%d,"delta":{"role":"assistant","content":""},' % index
        return self._head + delta + b'"logprobs":null,"finish_reason":null}]' + self._tail

    def text(self, index: int, text: str) -> bytes:
        opened = self._open0 if index == 0 else self._text_frame(index)[0]
        return opened + orjson.dumps(text) + self._close

    def text_with_logprobs(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], text_offset: int
    ) -> bytes:
        """A chunk with log-probabilities; `text_offset` counts characters before it."""
        choice = {
            "index": index,
            **({"delta": {"content": text}} if self._chat else {"text": text}),
            "logprobs": self._logprobs(logprobs, text_offset),
            "finish_reason": None,
        }
        return self._head + b"[" + orjson.dumps(choice) + b"]" + self._tail

    def finish(self, index: int, reason: str) -> bytes:
        inside = b'"delta":{}' if self._chat else b'"text":""'
        start = self._head + b'[{"index":%d,' % index + inside
        return start + b',"logprobs":null,"finish_reason":"' + reason.encode() + b'"}]' + self._tail

    def usage(self, bill: Bill) -> bytes:
        """The extra chunk of `include_usage`: no choices, and all the figures."""
        return self._head + b'[],"usage":' + orjson.dumps(usage_object(bill)) + END

    def failure(self, error: MarketError, open_indexes: Sequence[int]) -> bytes:
        """The terminal event: an error, and `finish_reason: error` for each open choice."""
        inside: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        choices = [
            {"index": index, **inside, "logprobs": None, "finish_reason": "error"}
            for index in open_indexes
        ]
        told = b',"error":' + orjson.dumps(error_object(error))
        return self._head + orjson.dumps(choices) + told + self._tail + DONE

    def whole(self, choices: Sequence[ChoiceText], bill: Bill, *, with_logprobs: bool) -> bytes:
        """The JSON of an answer that is not streamed."""
        listed = []
        for index, choice in enumerate(choices):
            text = "".join(choice.texts)
            content: dict[str, Any] = {"text": text}
            if self._chat:
                message = {"role": "assistant", "content": text, "refusal": None}
                content = {"message": message}
            logprobs = self._logprobs(choice.logprobs, 0) if with_logprobs else None
            listed.append(
                {
                    "index": index,
                    **content,
                    "logprobs": logprobs,
                    "finish_reason": choice.finish,
                }
            )
        return orjson.dumps({**self._shape, "choices": listed, "usage": usage_object(bill)})

    def _logprobs(self, logprobs: Sequence[TokenLogprob], text_offset: int) -> dict[str, Any]:
        if self._chat:
            return {"content": [_chat_logprob(entry) for entry in logprobs], "refusal": None}
        offsets = []
        for entry in logprobs:
            offsets.append(text_offset)
            text_offset += len(entry.text)
        return {
            "tokens": [entry.text for entry in logprobs],
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [{text: value for _, text, value in entry.top} for entry in logprobs],
            "text_offset": offsets,
        }


def _chat_logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [_one_logprob(text, value) for _, text, value in entry.top]
    return {**_one_logprob(entry.text, entry.logprob), "top_logprobs": top}


def _one_logprob(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode())}
