"""The fake as a raw ASGI app: one request's way from bytes to a durable answer.

An answer is sent only once what it says is on disk. Nothing a caller sends makes it fail:
whatever is not understood is refused in the shape of Stripe's errors.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from actors.fake_stripe import checkout, pages, routes
from actors.fake_stripe.acts import perform_act
from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.forms import read_form, read_json
from actors.fake_stripe.idempotency import Kept, Keys, fingerprint
from actors.fake_stripe.knobs import Fault, Knobs, read_knobs
from actors.fake_stripe.state_file import encode_state, load_state, write_state
from actors.fake_stripe.webhooks import Postman
from actors.fake_stripe.world import FakeSettings, World
from actors.stripe.reading import API_VERSION

log = logging.getLogger("coster.fake_stripe")

BODY_BYTES_MAX = 2**20
BODY_READ_S = 30.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Call(NamedTuple):
    """A request whose body has been read."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    receive: Receive
    send: Send


class FakeStripe:
    """The app and its state. `run` must be running for notices to be delivered."""

    def __init__(self, settings: FakeSettings, clock: Callable[[], float] = time.time) -> None:
        """Load what was saved. Raises UnreadableStateError."""
        self.world = World(settings, clock)
        self.knobs = Knobs()
        if settings.state_file is not None:
            state = load_state(settings.state_file)
            if state is not None:
                self.world.restore(state)
        self._keys = Keys(self.world)
        self._writing = asyncio.Lock()
        self.postman = Postman(self.world, lambda: self.knobs, self.save)

    async def run(self) -> None:
        """Deliver notices until cancelled."""
        await self.postman.run()

    async def act(self, act: str, **fields: object) -> Json:
        """Play one of the other people; see `acts`. Raises Refusal."""
        return await self._act({"act": act, **fields})

    async def _act(self, body: Json) -> Json:
        done = perform_act(self.world, body)
        await self.save()
        self.postman.wake()
        return done

    def turn(self, **knobs: object) -> None:
        """Set the knobs anew; those not named go back to behaving. Raises Refusal."""
        self._turn(knobs)

    def _turn(self, body: Json) -> None:
        self.knobs = read_knobs(body)
        self.world.refunds_wait = self.knobs.refunds_wait
        self.postman.wake()

    async def save(self) -> None:
        """Put the state as it is now on disk, in order with other savings."""
        path = self.world.settings.state_file
        if path is not None:
            content = encode_state(self.world.to_state())
            async with self._writing:
                await asyncio.to_thread(write_state, path, content)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"the test payments speak HTTP, not {scope['type']}")
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        method, path = scope["method"], scope["path"]
        request = f"req_{secrets.token_hex(8)}"
        try:
            body = await _read_body(receive)
            query = scope["query_string"].decode("latin-1")
            call = Call(method, path, query, headers, body, receive, send)
            if path.startswith(("/pay/", "/onboard/")):
                await self._page(call)
                return
            self._require_key(headers)
            if path.startswith("/_fake/"):
                await self._order(call)
                return
            await self._answer(call, request)
        except _GoneError:
            return
        except Refusal as refusal:
            await _send_json(send, refusal.status, refusal.body, {"request-id": request})

    def _require_key(self, headers: dict[str, str]) -> None:
        given = headers.get("authorization", "").encode("latin-1")
        expected = f"Bearer {self.world.settings.api_key}".encode()
        if not hmac.compare_digest(given, expected):
            raise Refusal("Invalid API Key provided.", status=401)

    async def _answer(self, call: Call, request: str) -> None:
        """A question of Stripe's API, with its idempotency key and the faults set for it."""
        if call.headers.get("stripe-version", API_VERSION) != API_VERSION:
            raise Refusal(f"The test payments speak the version {API_VERSION} only.")
        if "stripe-account" in call.headers:
            raise Refusal("The test payments do not act for connected accounts.")
        checkout.expire_due(self.world)
        route = routes.find(call.method, call.path)
        ask = routes.read(route, _params(call))
        fault = self.knobs.take(route.name)
        if fault is not None and await _fails_before(call, fault):
            return
        key = call.headers.get("idempotency-key") if call.method == "POST" else None
        mark = fingerprint(call.method, call.path, call.body)
        headers = {"request-id": request, "stripe-version": API_VERSION}
        if key is None:
            answer = await self._perform(route, ask, request, fault)
        else:
            kept = self._keys.begin(key, mark)
            if kept is None:
                answer = await self._perform_once(route, ask, request, fault, (key, mark))
            else:
                answer = kept
                headers |= {"idempotent-replayed": "true", "original-request": kept.request}
        if fault is not None and fault.kind == "execute_then_drop":
            await _drop(call)
            return
        await _send_json(call.send, answer.status, answer.body, headers)

    async def _perform_once(
        self,
        route: routes.Route,
        ask: routes.Ask,
        request: str,
        fault: Fault | None,
        mark: tuple[str, str],
    ) -> Kept:
        try:
            return await self._perform(route, ask, request, fault, mark)
        finally:
            self._keys.end(mark[0])

    async def _perform(
        self,
        route: routes.Route,
        ask: routes.Ask,
        request: str,
        fault: Fault | None,
        mark: tuple[str, str] | None = None,
    ) -> Kept:
        """Do it, remember the answer under its key, save both, and only then answer."""
        if fault is not None and fault.kind == "stall":
            await asyncio.sleep(fault.stall_s)
        try:
            answer = Kept(200, routes.perform(self.world, route, ask), request)
        except Refusal as refusal:
            if not refusal.kept:
                raise
            answer = Kept(refusal.status, refusal.body, request)
        if fault is not None and fault.kind == "fail_after":
            answer = Kept(500, _server_error(), request)
        if mark is not None:
            self._keys.keep(*mark, answer)
        if route.name.startswith("POST"):
            await self.save()
            self.postman.wake()
        return answer

    async def _page(self, call: Call) -> None:
        kind, _, key = call.path.strip("/").partition("/")
        shows = {"pay": pages.show_checkout, "onboard": pages.show_onboarding}
        posts = {"pay": pages.post_checkout, "onboard": pages.post_onboarding}
        checkout.expire_due(self.world)
        status, location = 200, None
        try:
            if call.method == "GET":
                html = shows[kind](self.world, key)
            elif call.method == "POST":
                html = posts[kind](self.world, key, read_form(_text(call.body)))
            else:
                raise Refusal("This page can be read and its buttons pressed.", status=404)
        except pages.Redirect as away:
            status, location, html = 303, away.url, ""
        except Refusal as refusal:
            status = refusal.status
            html = pages.document("Not here", f"<h1>Not here</h1><p>{refusal}</p>")
        await self.save()
        self.postman.wake()
        await _send_page(call.send, status, html, location)

    async def _order(self, call: Call) -> None:
        """What tests and tools ask besides Stripe's API."""
        order = f"{call.method} {call.path}"
        if order == "POST /_fake/knobs":
            self._turn(read_json(call.body))
            answer: Json = self.knobs.model_dump()
        elif order == "GET /_fake/knobs":
            answer = self.knobs.model_dump()
        elif order == "POST /_fake/act":
            answer = await self._act(read_json(call.body))
        elif order == "GET /_fake/deliveries":
            waiting = [entry["event"] for entry in self.world.outbox]
            answer = {"data": self.postman.deliveries, "waiting": waiting}
        elif order == "GET /_fake/objects":
            answer = {"data": [self.world.show(t) for t in self.world.objects.values()]}
        else:
            raise Refusal("No such order.", status=404)
        await _send_json(call.send, 200, answer, {})


class _GoneError(Exception):
    """The caller has left; there is nobody to answer."""


async def _read_body(receive: Receive) -> bytes:
    too_large = Refusal("The body is larger than 1 MiB.", status=413)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_READ_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_BYTES_MAX:
                    raise too_large
    except TimeoutError:
        raise Refusal("The body did not arrive in time.", status=408) from None
    return bytes(body)


def _params(call: Call) -> Json:
    if call.method != "POST":
        return read_form(call.query)
    if call.path.startswith("/v2/"):
        return read_json(call.body)
    return read_form(_text(call.body))


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("The body is not UTF-8.") from None


async def _fails_before(call: Call, fault: Fault) -> bool:
    if fault.kind == "fail_before":
        await _send_json(call.send, 500, _server_error(), {})
        return True
    if fault.kind == "rate_limit":
        after = fault.retry_after_s
        headers = {} if after is None else {"retry-after": f"{after:g}"}
        refusal = Refusal("Too many requests.", code="rate_limit", status=429)
        await _send_json(call.send, 429, refusal.body, headers)
        return True
    return False


def _server_error() -> Json:
    return {"error": {"type": "api_error", "message": "Something went wrong, as it was told to."}}


async def _drop(call: Call) -> None:
    """Close the connection without a word, and wait until that has happened."""
    transport = getattr(getattr(call.send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("the connection can only be dropped under uvicorn")
    transport.abort()
    while (await call.receive())["type"] != "http.disconnect":
        pass


async def _send_json(send: Send, status: int, body: Json, headers: dict[str, str]) -> None:
    content = json.dumps(body).encode()
    await _send(send, status, content, {"content-type": "application/json", **headers})


async def _send_page(send: Send, status: int, html: str, location: str | None) -> None:
    headers = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "referrer-policy": "no-referrer",
    }
    if location is not None:
        headers["location"] = location
    await _send(send, status, html.encode(), headers)


async def _send(send: Send, status: int, content: bytes, headers: dict[str, str]) -> None:
    pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
    pairs.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
