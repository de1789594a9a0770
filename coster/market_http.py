"""A running market over HTTP, for the commands. They never attach to its Ray.

The market is found by `--url` or COSTER_API_BASE, else through run.json of the data folder;
the key comes from `--key` or COSTER_API_KEY, else it is the demo consumer's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson

from coster.output import NotRunning
from coster.paths import MarketPaths, default_data_dir
from coster.runfile import RunningMarket, is_alive, read_run
from market import errors
from market.errors import MarketError, Unauthenticated

TIMEOUT_S = 30.0
STREAM_TIMEOUT_S = 600.0
_BY_STATUS = {
    cls.status: cls
    for cls in (
        errors.InvalidRequest,
        errors.Unauthenticated,
        errors.PaymentRequired,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.TooLarge,
        errors.RateLimited,
        errors.Unavailable,
    )
}


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a market's API is and which key opens it; "" is no key, for what is public."""

    base: str
    key: str

    @contextmanager
    def _client(self, timeout_s: float) -> Iterator[httpx2.Client]:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        with httpx2.Client(base_url=self.base, headers=headers, timeout=timeout_s) as client:
            try:
                yield client
            except httpx2.TransportError as error:
                raise NotRunning(
                    f"No market answers at {self.base} ({type(error).__name__}); start one with "
                    "`coster up`, or name it with --url."
                ) from error

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """One call; raises the MarketError the server answered with."""
        for last in (False, True):
            try:
                with self._client(timeout_s) as client:
                    response = (
                        client.request(method, path, json=body, headers=headers)
                        if body is not None
                        else client.request(method, path, headers=headers)
                    )
                break
            except NotRunning:
                # The answer was lost; only what is done once may be asked again.
                if last or "Idempotency-Key" not in (headers or {}):
                    raise
        return read_answer(response)

    def text(self, path: str) -> str:
        with self._client(TIMEOUT_S) as client:
            response = client.get(path)
        if response.status_code >= 400:
            read_answer(response)
        return str(response.text)

    def pieces(self, path: str) -> Iterator[str]:
        """A long text as it comes; raises MarketError when it is broken off."""
        with (
            self._client(STREAM_TIMEOUT_S) as client,
            client.stream("GET", path) as response,
        ):
            if response.status_code >= 400:
                response.read()
                read_answer(response)
            try:
                yield from response.iter_text()
            except httpx2.RemoteProtocolError as error:
                raise errors.Unavailable(
                    "The market broke off before the end: what was printed is not whole. Ask again."
                ) from error

    def stream(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        """The data events of one server-sent stream, decoded, until [DONE]."""
        with (
            self._client(STREAM_TIMEOUT_S) as client,
            client.stream("POST", path, json=body) as response,
        ):
            if response.status_code >= 400:
                response.read()
                read_answer(response)
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield orjson.loads(line[6:])


def read_answer(response: httpx2.Response) -> Any:
    """The JSON body, or the error it describes."""
    try:
        body = orjson.loads(response.content) if response.content else None
    except orjson.JSONDecodeError as error:
        raise MarketError(
            f"The server answered {response.status_code} with something that is not JSON."
        ) from error
    if response.status_code < 400:
        return body
    told = body.get("error", {}) if isinstance(body, dict) else {}
    kind = _BY_STATUS.get(response.status_code, MarketError)
    raise kind(
        str(told.get("message", f"HTTP {response.status_code}")),
        told.get("param"),
        told.get("code"),
    )


def paths_of(data: Path | None) -> MarketPaths:
    """The market of this data folder."""
    return MarketPaths((data or default_data_dir()).expanduser().resolve())


def api(data: Path | None, url: str | None, key: str | None, secret: str) -> Connection:
    """The public API. `secret` names the demo key used when no key is given."""
    base = url or os.environ.get("COSTER_API_BASE")
    chosen = key or os.environ.get("COSTER_API_KEY")
    paths = paths_of(data)
    if base is None:
        base = _run_of(paths).api_base
        chosen = chosen or paths.text_secret(secret)
    if not chosen:
        raise Unauthenticated("No API key: give --key, or set COSTER_API_KEY.", None, "no_key")
    return Connection(base.rstrip("/"), chosen)


def public_api(data: Path | None, url: str | None) -> Connection:
    """The public API without a key."""
    base = url or os.environ.get("COSTER_API_BASE") or _run_of(paths_of(data)).api_base
    return Connection(base.rstrip("/"), "")


def once(key: str | None) -> dict[str, str]:
    """The header under which a call that moves money is done once; made up when not given."""
    return {"Idempotency-Key": key or f"coster-{secrets.token_hex(16)}"}


def operations(data: Path | None) -> Connection:
    """The operator's listener of the market on this data."""
    from coster.compose import admin_key

    paths = paths_of(data)
    return Connection(_run_of(paths).admin_base, admin_key(paths))


def running(data: Path | None) -> RunningMarket:
    """The market that runs on this data; NotRunning when there is none."""
    return _run_of(paths_of(data))


def _run_of(paths: MarketPaths) -> RunningMarket:
    run = read_run(paths)
    if run is None or not is_alive(run.pid, run.started_s):
        raise NotRunning(
            f"No market runs on {paths.data}; start one with `coster up`, or name another data "
            "folder with --data or COSTER_DATA."
        )
    return run
