"""What a client hears of one stream: when it began, how it ended, what it was billed.

A load generator hears a hundred streams at once, so what is between the first word and the end
is not looked at: only the first event that has text, and the last ones, are read.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

TAIL_BYTES: Final = 16_384
"""Of a stream's end: the bill is in it, the last event before [DONE]."""

_PARTING: Final = b"\n\n"
_DATA: Final = b"data: "


class Ear:
    """Hears one answer as server-sent events. With `keep_text` all of what it says is kept."""

    __slots__ = (
        *("_rest", "_keep_text", "_texts", "first_s", "usage", "error", "finish", "done"),
        "heard",
    )

    def __init__(self, *, keep_text: bool) -> None:
        self._rest = b""
        self._keep_text = keep_text
        self._texts: list[str] = []
        self.first_s: float | None = None
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] = {}
        self.finish = ""
        self.done = False
        self.heard = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def feed(self, data: bytes, now_s: float) -> None:
        """Some bytes that have come at this time."""
        self.heard = True
        self._rest += data
        if self.first_s is None or self._keep_text:
            self._read(now_s)
        elif len(self._rest) > 4 * TAIL_BYTES:
            self._rest = self._rest[-TAIL_BYTES:]

    def close(self, now_s: float) -> None:
        """The stream is over: read what its end says."""
        if not self._rest.startswith((_DATA, b":")):  # the beginning of it was let go
            self._rest = self._rest.partition(_PARTING)[2]
        self._read(now_s)

    def _read(self, now_s: float) -> None:
        *events, self._rest = self._rest.split(_PARTING)
        for event in events:
            if event == b"data: [DONE]":
                self.done = True
            elif event.startswith(_DATA):
                self._take(event[len(_DATA) :], now_s)

    def _take(self, data: bytes, now_s: float) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.error = {"code": "not_json"}
            return
        if not isinstance(event, dict):
            self.error = {"code": "not_json"}
            return
        self.usage = event.get("usage") or self.usage
        self.error = event.get("error") or self.error
        for choice in event.get("choices") or ():
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            self.finish = choice.get("finish_reason") or self.finish
            if text:
                if self.first_s is None:
                    self.first_s = now_s
                if self._keep_text:
                    self._texts.append(text)
