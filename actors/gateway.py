"""A gateway process's connections to the actors, opened once and kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from actors.accountant_client import AccountantClient
from actors.calls import ActorAway, ActorCall
from actors.clients import ProviderLinks, RouterClient
from actors.payments.client import PaymentsClient
from actors.ray_env import front_token
from actors.transport.framed import FramedLink
from actors.transport.ray_stream import StreamLink
from market.errors import MarketError
from market.messages import DRAINING
from market.ports import ProviderLink
from market.routing.messages import Grant
from market.settings import MarketSettings
from market.types import Event, GatewayId, Job, MachineId, RequestId

HELLO_S_MAX = 60.0
"""A gateway waits this long for the accountant and the router when it starts."""
READY_S_MAX = 1.0


@dataclass(frozen=True, slots=True)
class GatewayClients:
    """Everything a gateway holds of the market. `pepper` keys the hashes of API keys.

    `front` is the token by which HAProxy vouches for a client's address.
    """

    accountant: AccountantClient
    router: RouterClient
    providers: ProviderLinks
    readiness: Readiness
    payments: PaymentsClient
    pepper: bytes
    front: str

    async def close(self) -> None:
        await self.accountant.close()
        await self.router.close()
        await self.providers.close()


class Readiness:
    """Whether this gateway could serve now: a `serve_app.ports.ReadinessPort`."""

    def __init__(self, accountant: ActorCall, router: ActorCall, routing: RouterClient) -> None:
        self._accountant = accountant
        self._router = router
        self._routing = routing

    async def problems(self) -> Sequence[str]:
        """Why not, a sentence each."""
        found = []
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._accountant("describe")
        except (ActorAway, MarketError, TimeoutError):
            found.append("The accountant does not answer.")
        if not self._routing.connected:
            found.append("The router does not answer.")
        elif await self._is_draining():
            found.append(DRAINING)
        elif not any(model.ready for model in self._routing.availability()):
            found.append("No provider is ready.")
        return found

    async def _is_draining(self) -> bool:
        try:
            async with asyncio.timeout(READY_S_MAX):
                return bool((await self._router("describe"))["state"] == "draining")
        except (ActorAway, MarketError, TimeoutError):
            return False  # said by `connected`, a moment later


@dataclass(frozen=True, slots=True)
class StreamCalls:
    """The four calls of the fallback transport to one machine, given by the Ray doorway."""

    open_stream: Callable[[MachineId, GatewayId], AsyncIterator[list[Event]]]
    provider: Callable[[MachineId], ActorCall]


async def connect_gateway(
    settings: MarketSettings,
    gateway: GatewayId,
    *,
    node: str,
    accountant: ActorCall,
    router: ActorCall,
    payments: ActorCall,
    streams: StreamCalls,
    counters: Callable[[], Mapping[str, float]],
) -> GatewayClients:
    """Fetch the secrets from the actors; the caller starts the router's poll."""
    pepper = await _first_answer(accountant, "key_pepper")
    secret = await _first_answer(router, "wire_secret")
    routing = RouterClient(router, gateway=gateway, pid=os.getpid(), node=node, counters=counters)

    def make_link(grant: Grant) -> ProviderLink:
        if settings.transport == "ray_stream":
            return _stream_link(grant.machine, gateway, streams)
        return FramedLink(
            grant.endpoint.host,
            grant.endpoint.port,
            machine=grant.machine,
            gateway=gateway,
            secret=secret,
        )

    books = AccountantClient(accountant)
    await books.start()
    return GatewayClients(
        accountant=books,
        router=routing,
        providers=ProviderLinks(make_link),
        readiness=Readiness(accountant, router, routing),
        payments=PaymentsClient(payments),
        pepper=pepper,
        front=front_token(secret),
    )


def _stream_link(machine: MachineId, gateway: GatewayId, streams: StreamCalls) -> StreamLink:
    call = streams.provider(machine)
    background: set[asyncio.Task[object]] = set()

    async def submit(job: Job) -> None:
        await call("stream_submit", machine, gateway, job)

    def cancel(request_id: RequestId) -> None:
        task = asyncio.ensure_future(_quietly(call, machine, gateway, request_id))
        background.add(task)
        task.add_done_callback(background.discard)

    async def renew() -> bool:
        return bool(await call("stream_renew", machine, gateway))

    return StreamLink(
        open_stream=lambda: streams.open_stream(machine, gateway),
        submit=submit,
        cancel=cancel,
        renew=renew,
    )


async def _quietly(
    call: ActorCall, machine: MachineId, gateway: GatewayId, request_id: RequestId
) -> None:
    try:
        await call("stream_cancel", machine, gateway, request_id)
    except ActorAway:
        return  # the provider is gone, and its job with it


async def _first_answer(call: ActorCall, method: str) -> bytes:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + HELLO_S_MAX
    while True:
        try:
            answer: bytes = await call(method)
            return answer
        except ActorAway:
            if loop.time() > give_up_s:
                raise
            await asyncio.sleep(0.1)
