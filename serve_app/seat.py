"""One request's place in the fleet: the slot it waits for, has, and gives back once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from market.errors import InvalidRequest, MarketError
from market.messages import Funding
from market.routing.messages import Busy, Grant, Outcome, RouteRequest
from market.types import AccountId, Event, Job, JobFailure, MachineId, RequestId
from serve_app.desk import Desk
from serve_app.prepare import Prepared
from serve_app.progress import AttemptFailedError

Route = asyncio.Future[Grant | Busy]


class Seat:
    """Asks for slots and gives them back; at most one is held at a time."""

    def __init__(
        self, desk: Desk, prepared: Prepared, request_id: RequestId, consumer: AccountId
    ) -> None:
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._consumer = consumer
        self._routing: Route | None = None
        self._queued = False
        self._excluded: tuple[MachineId, ...] = ()
        self.grant: Grant | None = None

    def ask(self, wake: Callable[[], None], *, max_tokens: int, funding: Funding | None) -> Route:
        """Ask for a slot, in parallel with whatever else; `wake` is called at the answer."""
        request = RouteRequest(
            request_id=self._request_id,
            gateway=self._desk.ports.gateway,
            consumer=self._consumer,
            model=self._prepared.card.id,
            prompt_tokens=len(self._prepared.prompt_ids),
            max_tokens=max_tokens,
            n=self._prepared.call.n,
            attempt=len(self._excluded) + 1,
            excluded=self._excluded,
            deadline_s=self._desk.limits.queue_s,
            funding=funding,
        )
        routing = asyncio.ensure_future(self._desk.ports.router.route(request))
        routing.add_done_callback(lambda _: wake())
        self._routing = routing
        self._queued = funding is not None
        return routing

    def answer(self, routing: Route) -> Grant | Busy:
        """The answer of a finished asking; raises the router's refusal."""
        self._routing = None
        answer = routing.result()
        if isinstance(answer, Grant):
            self.grant = answer
        return answer

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        """Hand the job over; AttemptFailedError when this Mac cannot take it."""
        try:
            async with asyncio.timeout(self._desk.limits.submit_s):
                await self._desk.ports.providers.submit(grant, job, on_event)
        except (OSError, TimeoutError):
            raise AttemptFailedError(JobFailure("lost", "The Mac cannot be reached.")) from None
        except InvalidRequest as error:
            raise AttemptFailedError(JobFailure("invalid", error.message, error.param)) from None
        except MarketError as error:
            raise AttemptFailedError(JobFailure("rejected", error.message)) from None

    def stop(self) -> None:
        """Tell the Mac to stop. A job it does not know is ignored there."""
        if self.grant is not None:
            self._desk.ports.providers.cancel(self.grant, self._request_id)

    def exclude(self, machine: MachineId) -> None:
        """Ask for another Mac next time: `machine` failed this request."""
        self._excluded = (*self._excluded, machine)

    def give_back(
        self,
        result: str,
        *,
        final: bool,
        completion_tokens: int = 0,
        cached_tokens: int = 0,
        ttft_ms: float | None = None,
        total_ms: float | None = None,
    ) -> None:
        """Report the attempt and free its slots, once."""
        grant, self.grant = self.grant, None
        if grant is not None:
            self._desk.ports.router.report(
                Outcome(
                    request_id=self._request_id,
                    attempt=grant.attempt,
                    machine=grant.machine,
                    result=result,
                    final=final,
                    completion_tokens=completion_tokens,
                    cached_tokens=cached_tokens,
                    ttft_ms=ttft_ms,
                    total_ms=total_ms,
                )
            )

    def abandon(self) -> None:
        """Leave the queue; a slot that was granted meanwhile goes back unused."""
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
            self.grant = answer
            self.give_back("cancelled", final=True)
