"""A request as it goes over the wire, and what became of it as its client saw it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from coster.load.ear import Ear
from market.policy.preferences import NO_PREFERENCES, Preferences
from simulator.records import Arrival, Ended

CONNECT_S_MAX: Final = 10.0
TOTAL_S_MAX: Final = 660.0
"""A minute more than the market gives any request."""

READ_BYTES: Final = 2**18
CHARS_MAX: Final = 60
"""Of a code that the other side made up."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `keys` are dealt to consumers in turn; `providers` are the fleet's
    public ids by position, empty where it is not known.
    """

    base: str
    keys: tuple[str, ...]
    providers: tuple[str, ...] = ()


def body_of(arrival: Arrival, prompt: str, providers: Sequence[str] = ()) -> bytes:
    """A streaming completion of exactly so many tokens, with everything that it wishes.

    An answer's length can only be asked for, so `max_tokens` is what shall be said.
    """
    body: dict[str, Any] = {
        "model": arrival.model,
        "prompt": prompt,
        "max_tokens": arrival.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if arrival.request_class == "batch":
        body["service_tier"] = "flex"
    if arrival.deadline_s is not None:
        body["deadline_s"] = arrival.deadline_s
    if arrival.session:
        body["prompt_cache_key"] = arrival.session
    if arrival.preferences != NO_PREFERENCES:
        body["provider"] = provider_of(arrival.preferences, providers)
    return orjson.dumps(body)


def provider_of(wishes: Preferences, providers: Sequence[str] = ()) -> dict[str, Any]:
    """Wishes in the API's words. Names of the lab's Macs become those of the live fleet's."""
    names = {f"prv_{number}": name for number, name in enumerate(providers)}
    ids = {
        field: [names.get(each, each) for each in getattr(wishes, field)]
        for field in ("order", "only", "ignore")
    }
    ceilings = {
        "prompt": _usd_per_1m(wishes.max_price_in_nano),
        "completion": _usd_per_1m(wishes.max_price_out_nano),
    }
    latency_ms = wishes.preferred_max_latency_ms
    said: dict[str, Any] = {
        **{field: listed or None for field, listed in ids.items()},
        "allow_fallbacks": None if wishes.allow_fallbacks else False,
        "sort": wishes.sort,
        "max_price": {k: v for k, v in ceilings.items() if v is not None} or None,
        "trust": wishes.trust,
        "quantizations": list(wishes.quantizations) or None,
        "preferred_max_latency": None if latency_ms is None else latency_ms / 1e3,
        "preferred_min_throughput": wishes.preferred_min_tps,
    }
    return {field: value for field, value in said.items() if value is not None}


def _usd_per_1m(nano: int | None) -> float | None:
    return None if nano is None else nano / 1e3


class Caller:
    """Sends requests on one client session and tells how each ended."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._url = f"{target.base}/completions"
        self._keys = target.keys
        self._places = {name: number for number, name in enumerate(target.providers)}
        self._lanes: dict[str, int] = {}
        self._clock = asyncio.get_running_loop().time

    @property
    def providers(self) -> list[str]:
        """Every Mac that answered or was known before, by its position."""
        return list(self._places)

    async def ask(self, ended: Ended, body: bytes, due_s: float, ear: Ear) -> None:
        """Send it, listen to the end, and say in `ended` what became of it.

        Times count from `due_s`, when it should have been sent: whatever made it late is in them.
        """
        headers = {"authorization": f"Bearer {self._key(ended.arrival.consumer)}"}
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                if response.status >= 400:
                    ended.status, ended.code = "refused", _code(await response.read(), response)
                else:
                    self._seen(ended, [response.headers.get("x-coster-provider", "")])
                    async for data in response.content.iter_any():
                        ear.feed(data, self._clock())
                    ear.close(self._clock())
                    self._settle(ended, ear)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            ended.status, ended.code = "failed", _fault(error)
        ended.e2e_s = self._clock() - due_s
        if ear.first_s is not None:
            ended.ttft_s = ear.first_s - due_s

    def open(self, ended: Ended, ear: Ear, due_s: float) -> None:
        """It was cut off because the run is over."""
        ended.status = "open"
        if ear.first_s is not None:
            ended.ttft_s = ear.first_s - due_s

    def _key(self, consumer: str) -> str:
        """Consumers are dealt to the keys in the order in which they come."""
        lane = self._lanes.setdefault(consumer, len(self._lanes) % len(self._keys))
        return self._keys[lane]

    def _settle(self, ended: Ended, ear: Ear) -> None:
        if ear.error or not ear.done:
            code = str(ear.error.get("code") or ear.error.get("type") or "broken_off")[:CHARS_MAX]
            ended.status = "failed" if ear.first_s is not None else "refused"
            ended.code = code if ear.error else "broken_off"
            return
        ended.status = "ok"
        self._bill(ended, ear.usage)

    def _bill(self, ended: Ended, usage: Mapping[str, Any]) -> None:
        """The figures of the final usage; what it does not have stays unknown or zero."""
        ended.said_tokens = _whole(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details") or {}
        ended.cached_tokens = _whole(details.get("cached_tokens"))
        ended.attempts = max(_whole(usage.get("attempts")), 1)
        ended.cost_nano = _whole(usage.get("cost_nano_usd"))
        shares = [str(each.get("provider", "")) for each in usage.get("providers") or ()]
        self._seen(ended, shares or [str(usage.get("provider") or "")])
        ended.continuations = max(len(shares) - 1, 0)

    def _seen(self, ended: Ended, names: Sequence[str]) -> None:
        places = [self._places.setdefault(name, len(self._places)) for name in names if name]
        ended.macs = tuple(places) or ended.macs


def caller_session() -> aiohttp.ClientSession:
    """As many connections as there are requests, each used again."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
        timeout=aiohttp.ClientTimeout(total=TOTAL_S_MAX, sock_connect=CONNECT_S_MAX),
        headers={"content-type": "application/json", "x-coster-heartbeat": "off"},
        read_bufsize=READ_BYTES,
        auto_decompress=False,
    )


def unknown_times(ended: Ended) -> None:
    """What a client cannot see is no number, not zero."""
    ended.wait_s = math.nan
    ended.regret_ms = math.nan


def _code(body: bytes, response: aiohttp.ClientResponse) -> str:
    try:
        told = orjson.loads(body)["error"]
        return str(told.get("code") or told["type"])[:CHARS_MAX]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return f"http_{response.status}"


def _fault(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "client_timeout"
    return "no_connection" if isinstance(error, aiohttp.ClientConnectorError) else "broken_off"


def _whole(value: object) -> int:
    """A whole number of the other side's, 0 for what is none."""
    try:
        return max(int(str(value)), 0)
    except ValueError:
        return 0
