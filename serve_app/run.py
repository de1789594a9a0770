"""One request's life after it was understood: admit, route, submit, relay, settle.

Whatever happens, two things do: the hold ends in exactly one settle or void (`Hold`), and
every granted slot is given back by exactly one outcome (`Seat`). `_abandon` does both from
any point, so that cancellation at any await is safe.
"""

from __future__ import annotations

import asyncio
import logging

from market.errors import Internal, InvalidRequest, MarketError, Unauthenticated, Unavailable
from market.messages import Admitted, Grant, KeyRecord
from market.types import Event, Job, JobFailure, RequestId, Usage
from serve_app import metric_names
from serve_app.asgi import ClientLeftError, Message, Send
from serve_app.desk import Desk
from serve_app.faults import describe_fault
from serve_app.hold import Delivery, Hold
from serve_app.inbox import Inbox
from serve_app.prepare import Prepared
from serve_app.progress import AttemptFailedError, Progress
from serve_app.replies import Reply
from serve_app.seat import Route, Seat
from serve_app.wire import Bill

_log = logging.getLogger("coster.door")
_REFUSALS = frozenset({"invalid", "rejected", "draining"})


class SlowReaderError(Exception):
    """The client reads more slowly than the Mac writes, beyond what we keep for it."""


class Run:
    """The life of one request. `tick` and `left` are called from outside; `go` runs it."""

    def __init__(
        self,
        desk: Desk,
        prepared: Prepared,
        request_id: RequestId,
        key_hash: bytes,
        key: KeyRecord,
        started_s: float,
    ) -> None:
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._key_hash = key_hash
        self._key = key
        self._hold = Hold(desk, prepared, request_id, key_hash)
        self._seat = Seat(desk, prepared, request_id, key.account)
        self._inbox = Inbox(desk.limits.buffer_bytes)
        self._reply: Reply
        self._task: asyncio.Task[None] | None = None
        self._progress = Progress(prepared.call.n, 1, len(prepared.prompt_ids))
        self._attempt = 0
        self._gone = False
        self._cut = False
        self._fault: MarketError | None = None
        self._checkpoint_tokens = 0
        # Seconds of the monotonic clock.
        self._started_s = started_s
        self._submitted_s: float | None = None  # None while no Mac works on it
        self._begun_s: float | None = None  # when this attempt was submitted; for its outcome
        self._event_s = started_s
        self._first_s: float | None = None  # first token of this attempt
        self._sending_s: float | None = None  # a write is under way since
        self._quiet_s = started_s  # last sign of life to the client
        self._checkpoint_s = started_s

    @property
    def admitted(self) -> Admitted | None:
        return self._hold.admitted

    # ── called from outside ──────────────────────────────────────────────────────────

    def left(self) -> None:
        """The client closed its connection: stop the Mac at once, then do the books."""
        self._gone = True
        if self._progress.open:
            self._seat.stop()
        self._inbox.poke()

    def tick(self, now_s: float) -> None:
        """Look for what no event will tell: silence, deadlines, a reader that stands still."""
        limits = self._desk.limits
        if self._sending_s is not None:
            if self._inbox.full:
                self._seat.stop()
            if now_s - self._sending_s > limits.write_s and self._task and not self._cut:
                self._cut = True
                self._task.cancel()
        elif now_s - self._started_s > limits.total_s:
            self._fault = Unavailable(
                f"The answer took longer than {limits.total_s:g} s; nothing is charged.",
                None,
                "deadline",
                1.0,
            )
        elif self._submitted_s is not None:
            allowed_s = limits.first_token_s if self._first_s is None else limits.stall_s
            if now_s - max(self._event_s, self._submitted_s) > allowed_s:
                stalled = JobFailure("lost", f"The Mac was silent for {allowed_s:g} s.")
                self._inbox.put(Event(self._request_id, 0, (), "", 0, error=stalled))
        if now_s - self._checkpoint_s >= limits.checkpoint_s:
            self._checkpoint(now_s)
        self._inbox.poke()

    def guarded(self, send: Send) -> Send:
        """`send`, watched by `tick`: a reader that stands still must not keep us for ever."""
        clock = self._desk.ports.clock

        async def watched(message: Message) -> None:
            self._sending_s = clock.monotonic_s()
            await send(message)
            self._sending_s = None

        return watched

    async def go(self, reply: Reply) -> None:
        """Serve the request to its end. Raises only CancelledError, after the books."""
        self._reply = reply
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except (ClientLeftError, ConnectionError):
            self._desk.counters.add(metric_names.CLIENTS_LEFT)
            self._abandon(charge=True)
        except SlowReaderError:
            self._desk.counters.add(metric_names.SLOW_READERS)
            self._abandon(charge=True)
            await self._fail(_too_slow())
        except MarketError as error:
            await self._refuse(error)
        except asyncio.CancelledError:
            # Ours, for a reader that stands still, or the server's. The books come first.
            self._abandon(charge=True)
            if not self._cut or self._task is None:
                raise
            self._desk.counters.add(metric_names.SLOW_READERS)
            self._task.uncancel()
        except Exception as error:  # noqa: BLE001  the boundary of a request: recorded
            self._desk.counters.add(metric_names.INTERNAL_ERRORS)
            _log.error("%s failed: %s", self._request_id, describe_fault(error))
            await self._refuse(Internal("An internal error; it has been recorded."))

    async def _refuse(self, error: MarketError) -> None:
        """End the request with an error; nobody pays unless a settle is under way."""
        if isinstance(error, Unauthenticated):
            self._desk.keys.forget(self._key_hash)
        self._give_up_seat()
        if self._hold.admitted is None:
            self._hold.abandon(None)
        else:
            await self._hold.void(error.code or error.type, self._attempt)
        await self._fail(error)

    async def _fail(self, error: MarketError) -> None:
        if self._reply.written:
            self._desk.counters.add(metric_names.STREAMS_BROKEN)
        if not self._gone:
            await self._reply.fail(error)

    # ── the steps ────────────────────────────────────────────────────────────────────

    async def _serve(self) -> None:
        grant, admitted = await self._admit_and_route()
        while True:
            try:
                await self._relay(grant, admitted)
                break
            except AttemptFailedError as failed:
                grant = await self._next_grant(grant, admitted, failed.failure)
        await self._settle_and_end(grant)

    async def _admit_and_route(self) -> tuple[Grant, Admitted]:
        """Both at once: a hold, and a slot that is free now; else wait in the queue."""
        wanted = self._prepared.call.max_tokens or self._prepared.max_tokens_cap
        routing = self._seat.ask(self._inbox.poke, max_tokens=wanted, funding=None)
        admitted = await self._hold.admit()
        await self._until_answered(routing)
        answer = self._seat.answer(routing)
        if isinstance(answer, Grant):
            return answer, admitted
        return await self._queue(admitted), admitted

    async def _queue(self, admitted: Admitted) -> Grant:
        """Stand in the fair queue with the hold as funding."""
        routing = self._seat.ask(
            self._inbox.poke, max_tokens=admitted.max_tokens, funding=admitted.funding
        )
        await self._until_answered(routing)
        answer = self._seat.answer(routing)
        if not isinstance(answer, Grant):
            raise Internal("The router left a funded request without an answer.")
        return answer

    async def _until_answered(self, routing: Route) -> None:
        while not routing.done():
            await self._wait()

    async def _relay(self, grant: Grant, admitted: Admitted) -> None:
        """Submit to one Mac and pass its events on until every choice has ended."""
        progress = Progress(
            self._prepared.call.n, admitted.max_tokens, len(self._prepared.prompt_ids)
        )
        self._progress = progress
        self._attempt += 1
        self._first_s = None
        reply, inbox, clock = self._reply, self._inbox, self._desk.ports.clock
        limits = self._desk.limits
        inbox.clear()
        reply.begin(progress, grant.provider)
        await self._submit(grant, admitted)
        while progress.open:
            await self._wait()
            events = inbox.take()
            if not events:
                continue
            now_s = self._event_s = clock.monotonic_s()
            if self._first_s is None:
                self._first_s = now_s
            for event in events:
                reply.add(event, progress.absorb(event))
            await reply.flush()
            if not progress.open:
                break
            if progress.tokens - self._checkpoint_tokens >= limits.checkpoint_tokens:
                self._checkpoint(now_s)
            inbox.hold(limits.coalesce_s)
        inbox.clear()
        self._submitted_s = None

    async def _submit(self, grant: Grant, admitted: Admitted) -> None:
        """Hand the job over; AttemptFailedError when this Mac cannot take it."""
        call = self._prepared.call
        job = Job(
            request_id=self._request_id,
            model=self._prepared.card.id,
            prompt_ids=self._prepared.prompt_ids,
            max_tokens=admitted.max_tokens,
            sampling=call.sampling,
            stop=call.stop,
            n=call.n,
            top_logprobs=call.top_logprobs,
            cache_scope=self._key.account,
        )
        attempt, inbox, seat = self._attempt, self._inbox, self._seat

        def on_event(event: Event) -> None:
            if attempt == self._attempt and seat.grant is not None:
                inbox.put(event)
            else:
                self._desk.counters.add(metric_names.LATE_EVENTS)

        if self._gone:
            raise ClientLeftError
        self._submitted_s = self._begun_s = self._desk.ports.clock.monotonic_s()
        try:
            async with asyncio.timeout(self._desk.limits.submit_s):
                await self._desk.ports.providers.submit(grant, job, on_event)
        except (OSError, TimeoutError):
            raise AttemptFailedError(JobFailure("lost", "The Mac cannot be reached.")) from None
        except InvalidRequest as error:
            raise AttemptFailedError(JobFailure("invalid", error.message)) from None
        except MarketError as error:
            raise AttemptFailedError(JobFailure("rejected", error.message)) from None

    async def _wait(self) -> None:
        """Sleep until something changed, and find out whether it still matters."""
        await self._inbox.wait()
        if self._gone:
            raise ClientLeftError
        if self._fault is not None:
            raise self._fault
        if self._inbox.full:
            raise SlowReaderError
        if not self._reply.written:
            now_s = self._desk.ports.clock.monotonic_s()
            if now_s - self._quiet_s >= self._desk.limits.heartbeat_s:
                self._quiet_s = now_s
                if await self._reply.heartbeat():
                    self._desk.counters.add(metric_names.HEARTBEATS)

    async def _next_grant(self, grant: Grant, admitted: Admitted, failure: JobFailure) -> Grant:
        """Another Mac for a failed attempt, or the error that ends the request."""
        written = self._reply.written
        last = failure.code == "invalid" or written or self._attempt >= self._desk.limits.attempts
        self._seat.stop()
        self._report("rejected" if failure.code in _REFUSALS else "failed", final=last)
        if failure.code == "invalid":
            raise InvalidRequest(failure.message[:300], None, "invalid_job")
        if written:
            await self._reply.flush()  # what came before the loss in the same batch
            raise Unavailable(
                f"The Mac was lost after {self._progress.tokens} tokens; nothing is charged. "
                "Send the request again.",
                None,
                "provider_lost",
                1.0,
            )
        if last:
            raise Unavailable(
                f"{self._attempt} Macs could not serve this; the last said: "
                f"{failure.message[:200]}",
                None,
                "attempts_exhausted",
                2.0,
            )
        self._desk.counters.add(metric_names.FAILOVERS)
        self._seat.exclude(grant.machine)
        return await self._queue(admitted)

    async def _settle_and_end(self, grant: Grant) -> None:
        """The charge is durable before the last chunk says that all is done."""
        if self._gone and not self._reply.written:
            raise ClientLeftError
        self._report("ok", final=True)
        progress = self._progress
        delivery = self._delivery(grant, progress.tokens, progress.choices[0].finish or "stop")
        settled = await self._hold.settle(delivery)
        self._count(delivery)
        await self._reply.end(Bill(settled.usage, settled.cost_nano, grant.provider, self._attempt))

    # ── the end, from anywhere ───────────────────────────────────────────────────────

    def _abandon(self, *, charge: bool) -> None:
        """Leave at once; what was delivered is charged off the path, or nothing is."""
        grant, delivered = self._seat.grant, self._reply.delivered
        delivery = None
        if charge and grant is not None and delivered:
            delivery = self._delivery(grant, delivered, "cancelled")
        self._give_up_seat()
        self._hold.abandon(delivery)

    def _give_up_seat(self) -> None:
        self._seat.abandon()
        if self._progress.open:
            self._seat.stop()
        self._report("cancelled", final=True)

    def _report(self, result: str, *, final: bool) -> None:
        begun_s, self._begun_s = self._begun_s, None
        self._submitted_s = None
        now_s = self._desk.ports.clock.monotonic_s()
        begun_s = now_s if begun_s is None else begun_s
        self._seat.give_back(
            result,
            final=final,
            completion_tokens=self._progress.tokens,
            cached_tokens=self._progress.cached_tokens,
            ttft_ms=None if self._first_s is None else (self._first_s - begun_s) * 1000,
            total_ms=(now_s - begun_s) * 1000,
        )

    def _delivery(self, grant: Grant, tokens: int, finish_reason: str) -> Delivery:
        now_s = self._desk.ports.clock.monotonic_s()
        first_s = now_s if self._first_s is None else self._first_s
        return Delivery(
            grant=grant,
            usage=self._usage(tokens),
            finish_reason=finish_reason,
            attempts=self._attempt,
            ttft_ms=(first_s - self._started_s) * 1000,
            total_ms=(now_s - self._started_s) * 1000,
        )

    def _usage(self, tokens: int) -> Usage:
        return Usage(len(self._prepared.prompt_ids), tokens, self._progress.cached_tokens)

    def _checkpoint(self, now_s: float) -> None:
        self._checkpoint_s = now_s
        self._checkpoint_tokens = self._progress.tokens
        delivered = self._reply.delivered
        self._hold.checkpoint(self._usage(delivered), self._seat.grant if delivered else None)

    def _count(self, delivery: Delivery) -> None:
        counters, usage = self._desk.counters, delivery.usage
        counters.add(metric_names.PROMPT_TOKENS, usage.prompt_tokens)
        counters.add(metric_names.COMPLETION_TOKENS, usage.completion_tokens)
        counters.add(metric_names.CACHED_TOKENS, usage.cached_tokens)
        counters.add(metric_names.TTFT_MS_SUM, delivery.ttft_ms)
        counters.add(metric_names.TTFT_MS_COUNT)
        if self._progress.mismatches:
            counters.add(metric_names.COUNT_MISMATCHES, self._progress.mismatches)


def _too_slow() -> InvalidRequest:
    return InvalidRequest(
        "The answer was not read as fast as it was made; it was broken off, and what was sent "
        "is charged.",
        None,
        "slow_reader",
    )
