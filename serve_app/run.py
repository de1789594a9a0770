"""One request's life after it was understood: admit, route, submit, relay, settle.

Whatever happens, two things do: the hold ends in exactly one settle or void (`Hold`), and
every granted slot is given back by exactly one outcome (`Seat`). `_abandon` does both from
any point, so that cancellation at any await is safe.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from market.errors import Internal, MarketError, Unauthenticated
from market.messages import Admitted, Funding, KeyRecord
from market.routing.messages import Grant
from market.types import Event, JobFailure, RequestId, Usage
from serve_app import metric_names
from serve_app.asgi import ClientLeftError, Message, Send
from serve_app.desk import Desk
from serve_app.endings import given_up, overdue, too_slow, unconfirmed
from serve_app.faults import describe_fault
from serve_app.hold import Delivery, Hold, ReplayedError
from serve_app.inbox import Inbox
from serve_app.prepare import Prepared
from serve_app.progress import AttemptFailedError, Progress
from serve_app.recording import Recording
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
        recording: Recording | None = None,
    ) -> None:
        """With a `recording` the answer is kept for a caller who asks again.

        Such a request is charged in the commit that keeps its answer, or not at all: what a
        dead gateway had sent of it is not charged, so that asking again is never paid twice.
        """
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._key_hash = key_hash
        self._recording = recording
        own_key = None if recording is None else recording.own_key
        self._hold = Hold(desk, prepared, request_id, key_hash, own_key)
        self._seat = Seat(desk, prepared, request_id, key.account)
        self._inbox = Inbox(desk.limits.buffer_bytes)
        self._reply: Reply
        self._task: asyncio.Task[None] | None = None
        self._progress = Progress(prepared.call.n, 1, len(prepared.prompt_ids))
        self._attempt = 0
        self._gone = False
        self._cut = False
        self._serving = False  # in `_serve`, where a cancellation is caught
        self._fault: MarketError | None = None
        self._ended: MarketError | None = None
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

    def end(self, error: MarketError) -> None:
        """The market ends the request: its client is told `error` and nobody pays."""
        self._fault = self._ended = error
        self._inbox.poke()

    def cut(self) -> None:
        """Wait no longer for what holds up an ended request: a reader, an actor, a Mac."""
        caught = self._serving or self._sending_s is not None  # else the books are being done
        if caught and self._task and not self._cut:
            self._cut = True
            self._task.cancel()

    def tick(self, now_s: float) -> None:
        """Look for what no event will tell: silence, deadlines, a reader that stands still."""
        limits = self._desk.limits
        if self._sending_s is not None:
            if self._inbox.full:
                self._seat.stop()
            if now_s - self._sending_s > limits.write_s:
                self.cut()
        elif now_s - self._started_s > limits.total_s:
            self._fault = self._fault or overdue(limits.total_s)
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
        """Serve the request to its end.

        Raises CancelledError, after the books, and ReplayedError when there is nothing to
        serve because it was served before.
        """
        self._reply = reply
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except ReplayedError:
            self._give_up_seat()
            raise
        except (ClientLeftError, ConnectionError):
            self._desk.counters.add(metric_names.CLIENTS_LEFT)
            self._abandon(charge=True)
        except SlowReaderError:
            self._desk.counters.add(metric_names.SLOW_READERS)
            self._abandon(charge=True)
            await self._fail(too_slow())
        except MarketError as error:
            await self._refuse(error)
        except asyncio.CancelledError:
            # Ours, for a reader that stands still, or the server's. The books come first.
            self._abandon(charge=self._ended is None)
            if not self._cut or self._task is None:
                raise
            self._task.uncancel()
            if self._sending_s is not None:
                self._desk.counters.add(metric_names.SLOW_READERS)
            elif self._ended is not None:
                self._cut = False  # the farewell, too, may meet a reader that stands still
                await self._fail(unconfirmed() if self._hold.charged else self._ended)
        except Exception as error:  # noqa: BLE001  the boundary of a request: recorded
            self._desk.counters.add(metric_names.INTERNAL_ERRORS)
            _log.error("%s failed: %s", self._request_id, describe_fault(error))
            await self._refuse(Internal("An internal error; it has been recorded."))

    async def _refuse(self, error: MarketError) -> None:
        """End the request with an error; nobody pays unless a settle is under way."""
        if isinstance(error, Unauthenticated):
            self._desk.keys.forget(self._key_hash)
        self._give_up_seat()
        if self._hold.admitted is None or error is self._ended:
            self._hold.abandon(None)  # off the path: who is ended is told at once
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
        self._serving = True
        try:
            grant, admitted = await self._admit_and_route()
            while True:
                try:
                    await self._relay(grant, admitted)
                    break
                except AttemptFailedError as failed:
                    grant = await self._next_grant(grant, admitted, failed.failure)
            await self._settle_and_end(grant, admitted)
        finally:
            self._serving = False

    async def _admit_and_route(self) -> tuple[Grant, Admitted]:
        """Both at once: a hold, and a slot that is free now; else wait in the queue.

        One after the other under the caller's own key, which may need no slot at all.
        """
        wanted = self._prepared.call.max_tokens or self._prepared.max_tokens_cap
        early = None if self._recording else self._ask(wanted)
        admitted = await self._hold.admit()
        routing = early or self._ask(admitted.max_tokens)
        await self._until_answered(routing)
        answer = self._seat.answer(routing)
        if isinstance(answer, Grant):
            return answer, admitted
        return await self._queue(admitted), admitted

    def _ask(self, max_tokens: int, funding: Funding | None = None) -> Route:
        return self._seat.ask(self._inbox.poke, max_tokens=max_tokens, funding=funding)

    async def _queue(self, admitted: Admitted) -> Grant:
        """Stand in the fair queue with the hold as funding."""
        routing = self._ask(admitted.max_tokens, admitted.funding)
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
        job = self._prepared.job(self._request_id, admitted)
        attempt, inbox, seat = self._attempt, self._inbox, self._seat

        def on_event(event: Event) -> None:
            if attempt == self._attempt and seat.grant is not None:
                inbox.put(event)
            else:
                self._desk.counters.add(metric_names.LATE_EVENTS)

        if self._gone:
            raise ClientLeftError
        self._submitted_s = self._begun_s = self._desk.ports.clock.monotonic_s()
        await seat.submit(grant, job, on_event)

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
        if last:
            if written:
                await self._reply.flush()  # what came before the loss in the same batch
            raise given_up(failure, self._attempt, self._progress.tokens if written else None)
        self._desk.counters.add(metric_names.FAILOVERS)
        self._seat.exclude(grant.machine)
        return await self._queue(admitted)

    async def _settle_and_end(self, grant: Grant, admitted: Admitted) -> None:
        """The charge is durable before the last chunk says that all is done.

        The last bytes are made before it, with the bill in them, so that an answer that is
        kept is the very one that is sent.
        """
        if self._gone and not self._reply.written:
            raise ClientLeftError
        self._report("ok", final=True)
        progress = self._progress
        delivery = self._delivery(grant, progress.tokens, progress.choices[0].finish or "stop")
        bill = Bill(
            delivery.usage, admitted.cost_nano(delivery.usage), grant.provider, self._attempt
        )
        last, outcome = self._reply.last(bill), None
        if self._recording is not None:
            kind = self._reply.content_type
            outcome = self._recording.sealed(admitted.account, self._request_id, kind, last)
        settled = await self._hold.settle(delivery, outcome)
        delivery.count(self._desk.counters, self._progress.mismatches)
        if (settled.cost_nano, settled.usage) != (bill.cost_nano, bill.usage):
            self._desk.counters.add(metric_names.COST_MISMATCHES)
            _log.error("%s was charged otherwise than computed", self._request_id)
            last = self._reply.last(replace(bill, cost_nano=settled.cost_nano, usage=settled.usage))
        await self._reply.end(last)

    # ── the end, from anywhere ───────────────────────────────────────────────────────

    def _abandon(self, *, charge: bool) -> None:
        """Leave at once; what was delivered is charged off the path, or nothing is."""
        grant, delivered = self._seat.grant, self._reply.delivered
        delivery = None
        if charge and grant is not None and delivered and self._recording is None:
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
        delivered = self._reply.delivered if self._recording is None else 0
        self._hold.checkpoint(self._usage(delivered), self._seat.grant if delivered else None)
