"""One request's place in the fleet: what it asks the router for, and the slot it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from market.accounting.prices import Price
from market.errors import InvalidRequest, MarketError
from market.messages import Admitted, Funding
from market.routing.messages import Busy, Grant, RouteRequest
from market.types import AccountId, Event, Job, JobFailure, MachineId, RequestId
from serve_app.desk import Desk
from serve_app.prepare import Prepared
from serve_app.progress import AttemptFailedError
from serve_app.race import Attempt, Race

Route = asyncio.Future[Grant | Busy]


class Seat:
    """Asks for slots, one at a time; what is granted enters the race."""

    def __init__(
        self,
        desk: Desk,
        prepared: Prepared,
        request_id: RequestId,
        consumer: AccountId,
        race: Race,
    ) -> None:
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._consumer = consumer
        self._race = race
        self._price = prepared.wanted.price
        self._routing: Route | None = None
        self._queued = False
        self._tried: tuple[MachineId, ...] = ()
        self.attempts = 0  # granted so far

    def priced(self, admitted: Admitted) -> None:
        """From now on Macs are compared at the prices that the hold has frozen."""
        self._price = Price(
            admitted.price_in_nano, admitted.price_cached_nano, admitted.price_out_nano
        )

    def ask(
        self,
        wake: Callable[[], None],
        *,
        max_tokens: int,
        funding: Funding | None = None,
        digest: str = "",
        said_tokens: int = 0,
    ) -> Route:
        """Ask for a slot, in parallel with whatever else; `wake` is called at the answer.

        With a `digest` only Macs with those weights will do: they go on after `said_tokens`.
        """
        request = self._request(max_tokens, funding, digest, said_tokens)
        routing = asyncio.ensure_future(self._desk.ports.router.route(request))
        routing.add_done_callback(lambda _: wake())
        self._routing = routing
        self._queued = funding is not None
        return routing

    def _request(
        self,
        max_tokens: int,
        funding: Funding | None,
        digest: str = "",
        said_tokens: int = 0,
        *,
        hedge: bool = False,
    ) -> RouteRequest:
        ports = self._desk.ports
        return self._prepared.request(
            self._request_id,
            ports.gateway,
            self._consumer,
            ports.clock.monotonic_s(),
            max_tokens=max_tokens,
            price=self._price,
            attempt=self.attempts + 1,
            excluded=self._tried,
            funding=funding,
            digest=digest,
            said_tokens=said_tokens,
            hedge=hedge,
        )

    def answer(self, routing: Route, said_tokens: int = 0) -> Attempt | Busy:
        """The answer of a finished asking; raises the router's refusal."""
        self._routing = None
        answer = routing.result()
        return self._taken(answer, said_tokens) if isinstance(answer, Grant) else answer

    def _taken(self, grant: Grant, said_tokens: int = 0) -> Attempt:
        """A slot was granted: its Mac is not asked for again."""
        self.attempts += 1
        self._tried = (*self._tried, grant.machine)
        attempt = Attempt(grant, said_tokens)
        self._race.enter(attempt)
        return attempt

    async def hedge(self, max_tokens: int) -> Attempt | None:
        """A second try beside one that is slow, if the router has room for it."""
        try:
            answer = await self._desk.ports.router.route(
                self._request(max_tokens, None, hedge=True)
            )
        except MarketError:
            return None
        return self._taken(answer) if isinstance(answer, Grant) else None

    async def submit(self, attempt: Attempt, job: Job, on_event: Callable[[Event], None]) -> None:
        """Hand the job over; AttemptFailedError when this Mac cannot take it."""
        attempt.begun_s = self._desk.ports.clock.monotonic_s()
        try:
            async with asyncio.timeout(self._desk.limits.submit_s):
                await self._desk.ports.providers.submit(attempt.grant, job, on_event)
        except (OSError, TimeoutError):
            raise AttemptFailedError(JobFailure("lost", "The Mac cannot be reached.")) from None
        except InvalidRequest as error:
            raise AttemptFailedError(JobFailure("invalid", error.message, error.param)) from None
        except MarketError as error:
            raise AttemptFailedError(JobFailure("rejected", error.message)) from None

    def abandon(self) -> None:
        """Leave the queue; a slot that was granted meanwhile goes back unused."""
        self._race.closed = True
        routing, self._routing = self._routing, None
        if routing is not None:
            self._desk.background.start(self._release(routing))

    async def _release(self, routing: Route) -> None:
        if self._queued:
            routing.cancel()  # the router is told to forget a waiting request
        await asyncio.wait([routing])
        if routing.cancelled() or routing.exception() is not None:
            return
        answer = routing.result()
        if isinstance(answer, Grant):
            self._race.leave(self._taken(answer), "cancelled", final=True)
