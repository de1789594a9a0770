"""From a slot to a complete answer: submit, listen, try again, go on where a Mac was lost.

The request's conversation with the fleet. It decides nothing about money: whoever runs it is
told how far the answer has come and which try has led.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from market.errors import Internal, MarketError
from market.messages import Admitted
from market.routing.messages import Busy
from market.types import AccountId, Event, JobFailure, RequestId
from serve_app import metric_names
from serve_app.answer import Answer
from serve_app.asgi import ClientLeftError
from serve_app.desk import Desk
from serve_app.endings import given_up
from serve_app.inbox import Inbox
from serve_app.prepare import Prepared
from serve_app.progress import AttemptFailedError
from serve_app.race import Attempt, Race, result_of
from serve_app.replies import Reply
from serve_app.seat import Route, Seat

_log = logging.getLogger("coster.door")


class SlowReaderError(Exception):
    """The client reads more slowly than the Mac writes, beyond what we keep for it."""


class Relay:
    """Asks, submits and passes on. `fault` and `gone` are set from outside and end it."""

    def __init__(
        self,
        desk: Desk,
        prepared: Prepared,
        request_id: RequestId,
        consumer: AccountId,
        started_s: float,
        progressed: Callable[[float], None],
    ) -> None:
        """`progressed` is called with the time after each batch that reached the reply."""
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._progressed = progressed
        self.race = Race(desk, request_id)
        self.seat = Seat(desk, prepared, request_id, consumer, self.race)
        self.answer = Answer(prepared)
        self.inbox = Inbox(desk.limits.buffer_bytes)
        self.reply: Reply
        self.gone = False
        self.fault: MarketError | None = None
        self._gap = desk.measures.of(prepared.call.kind, prepared.card.id).gap
        self._said_s = started_s  # last batch of tokens
        self._admitted: Admitted | None = None
        self._hedging: asyncio.Task[Attempt | None] | None = None  # a second Mac is asked for
        self._pausing = False  # a Mac was lost in the middle; nobody goes on yet
        self._quiet_s = started_s  # last sign of life to the client

    # ── slots ────────────────────────────────────────────────────────────────────────

    def ask(self, max_tokens: int) -> Route:
        """A slot that is free now, or none; the answer comes while other things are done."""
        return self.seat.ask(self.inbox.poke, max_tokens=max_tokens)

    async def first(self, early: Route | None, admitted: Admitted) -> Attempt:
        """The slot that was asked for early, else one asked for now, else one waited for."""
        self.seat.priced(admitted)
        routing = early or self.ask(admitted.max_tokens)
        await self._until_answered(routing)
        answer = self.seat.answer(routing)
        return answer if isinstance(answer, Attempt) else await self._queue(admitted)

    async def _queue(self, admitted: Admitted, digest: str = "") -> Attempt:
        """Stand in the fair queue with the hold as funding; with a digest, to go on."""
        said = len(self.answer.said) if digest else 0
        routing = self.seat.ask(
            self.inbox.poke,
            max_tokens=admitted.max_tokens,
            funding=admitted.funding,
            digest=digest,
            said_tokens=said,
        )
        await self._until_answered(routing)
        answer = self.seat.answer(routing, said)
        if isinstance(answer, Busy):
            raise Internal("The router left a funded request without an answer.")
        return answer

    async def _until_answered(self, routing: asyncio.Future[Any]) -> None:
        while not routing.done():
            await self._wait()

    async def _wait(self) -> None:
        """Sleep until something changed, and find out whether it still matters."""
        await self.inbox.wait()
        if self.gone:
            raise ClientLeftError
        if self.fault is not None:
            raise self.fault
        if self.inbox.full:
            raise SlowReaderError
        if self._pausing or not self.reply.written:
            now_s = self._desk.ports.clock.monotonic_s()
            if now_s - self._quiet_s >= self._desk.limits.heartbeat_s:
                self._quiet_s = now_s
                if await self.reply.heartbeat():
                    self._desk.counters.add(metric_names.HEARTBEATS)

    # ── the answer ───────────────────────────────────────────────────────────────────

    async def whole(self, attempt: Attempt, admitted: Admitted) -> Attempt:
        """Pass on the whole answer, over as many Macs as it takes; the try that ended it."""
        self._admitted = admitted
        self.answer.start(admitted.max_tokens)
        while True:
            try:
                return await self._relay(attempt, admitted)
            except AttemptFailedError as failed:
                attempt = await self._next(admitted, failed.failure)

    async def _relay(self, attempt: Attempt, admitted: Admitted) -> Attempt:
        """Submit to a Mac and pass on what the leader says, until every choice has ended."""
        answer, reply, inbox = self.answer, self.reply, self.inbox
        inbox.clear()
        reply.begin(answer.progress, attempt.grant.provider, goes_on=bool(answer.said))
        await self._submit_first(attempt, admitted)
        while answer.progress.open:
            await self._wait()
            events = inbox.take()
            if not events:
                continue
            self._pausing = False
            now_s = self._desk.ports.clock.monotonic_s()
            if answer.first_s is None:
                answer.first_s = now_s
            else:
                self._gap.observe(now_s - self._said_s)
            self._said_s = now_s
            if self.race.lead is not None:
                reply.led_by(self.race.lead.grant.provider)
            for event in events:
                reply.add(event, answer.absorb(event))
            await reply.flush()
            if answer.progress.open:
                self._progressed(now_s)
                inbox.hold(self._desk.limits.coalesce_s)
        inbox.clear()
        assert self.race.lead is not None, "who has ended the answer has led"
        return self.race.lead

    async def _submit_first(self, attempt: Attempt, admitted: Admitted) -> None:
        try:
            await self._submit(attempt, admitted)
        except AttemptFailedError as failed:
            if len(self.race.live) < 2:
                raise
            # A second try has begun meanwhile and is listened to from here on.
            self.race.leave(attempt, result_of(failed.failure), final=False)

    async def _submit(self, attempt: Attempt, admitted: Admitted) -> None:
        """Hand the job over; AttemptFailedError when this Mac cannot take it."""
        if self.gone:
            raise ClientLeftError
        job = self._prepared.job(self._request_id, admitted)
        if self.answer.said:
            job = replace(job, said=tuple(self.answer.said))
        await self.seat.submit(attempt, job, partial(self._hear, attempt))

    def _hear(self, attempt: Attempt, event: Event) -> None:
        """An event of one try: counted if it leads, or is the first to say something."""
        if self.race.heard(attempt, event):
            self.inbox.put(event)
        else:
            self._desk.counters.add(metric_names.LATE_EVENTS)

    async def _next(self, admitted: Admitted, failure: JobFailure) -> Attempt:
        """Another Mac for what a failed one leaves, or the error that ends the request."""
        lost = self.race.front
        assert lost is not None, "somebody has failed"
        lost.lost = True
        answer, written = self.answer, self.reply.written
        goes_on = failure.code != "invalid" and answer.may_go_on(lost)
        spare = await self._spare(lost, same=goes_on)
        tried_out = spare is None and self.seat.attempts >= self._desk.limits.attempts
        last = failure.code == "invalid" or tried_out or (written and not goes_on)
        self.race.stop(lost)
        self.leave(lost, result_of(failure), final=last)
        if written:
            await self.reply.flush()  # what came before the loss in the same batch
        if last:
            if spare is not None:
                self.leave(spare, "cancelled", final=True)
            raise self._given_up(failure)
        self._desk.counters.add(metric_names.FAILOVERS)
        about = {"request_id": self._request_id, "provider": lost.grant.provider}
        _log.info("a Mac failed a request; another is tried", extra={**about, "code": failure.code})
        if goes_on:
            answer.lose(lost)
            self._pausing = True
            try:
                attempt = spare or await self._queue(admitted, lost.grant.digest)
            except MarketError:
                if self.fault is not None:
                    raise
                if self.reply.written:
                    raise self._given_up(failure) from None
            else:
                attempt.said_tokens = len(answer.said)
                self._desk.counters.add(metric_names.CONTINUATIONS)
                return attempt
        answer.start(admitted.max_tokens)
        return spare or await self._queue(admitted)

    async def _spare(self, lost: Attempt, *, same: bool) -> Attempt | None:
        """The second Mac that was being asked for when the first was lost, if there is one.

        It takes the lost one's place instead of a third. To go on it must have the `same`
        weights.
        """
        if self._hedging is not None and not self._hedging.done():
            self._hedging.add_done_callback(lambda _: self.inbox.poke())
            await self._until_answered(self._hedging)
        spare = next((one for one in self.race.live if one is not lost), None)
        if spare is not None and same and spare.grant.digest != lost.grant.digest:
            self.leave(spare, "cancelled", final=False)
            return None
        return spare

    def _given_up(self, failure: JobFailure) -> MarketError:
        written = self.answer.progress.tokens if self.reply.written else None
        return given_up(failure, self.seat.attempts, written)

    # ── silence ──────────────────────────────────────────────────────────────────────

    def look_for_silence(self, now_s: float) -> None:
        """A Mac that says nothing is given up; one that is slow to begin gets company."""
        limits = self._desk.limits
        for attempt in list(self.race.live):
            silent_s = attempt.silent_s(now_s)
            allowed_s = limits.first_token_s if attempt.first_s is None else limits.stall_s
            if silent_s > allowed_s:
                stalled = JobFailure("lost", f"The Mac was silent for {allowed_s:g} s.")
                self._hear(attempt, Event(self._request_id, 0, (), "", 0, error=stalled))
            elif attempt.first_s is None and 0 < attempt.grant.hedge_after_ms < silent_s * 1e3:
                self._begin_hedge(attempt)

    def _begin_hedge(self, beside: Attempt) -> None:
        """Ask for a second Mac beside one that is slow to begin an answer, once."""
        tried_out = self.seat.attempts >= self._desk.limits.attempts
        if self._hedging is not None or tried_out or self.answer.said:
            return
        assert self._admitted is not None, "who has a slot was admitted"
        start = self._desk.background.start
        self._hedging = start(self.seat.hedge(self._admitted.max_tokens))
        start(self._hedge(beside, self._hedging, self._admitted))

    async def _hedge(
        self, beside: Attempt, asking: asyncio.Task[Attempt | None], admitted: Admitted
    ) -> None:
        attempt = await asking
        if attempt is None or (beside.lost and not self.race.closed):
            return  # after a loss it is not a second try but the next one
        if self.race.closed or self.race.lead is not None:
            self.race.leave(attempt, "cancelled", final=False)
            return
        self._desk.counters.add(metric_names.HEDGES)
        try:
            await self._submit(attempt, admitted)
        except ClientLeftError:
            self.race.leave(attempt, "cancelled", final=False)
        except AttemptFailedError as failed:
            self._hear(attempt, Event(self._request_id, 0, (), "", 0, error=failed.failure))

    # ── leaving ──────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Tell every Mac that works on it to stop, unless all has been said."""
        if self.answer.progress.open:
            self.race.stop_all()

    def give_up(self) -> None:
        """Leave the queue and every slot."""
        self.seat.abandon()
        self.stop()
        for attempt in list(self.race.live):
            self.leave(attempt, "cancelled", final=True)

    def leave(
        self, attempt: Attempt, result: str, *, final: bool, prefix: tuple[int, ...] = ()
    ) -> None:
        """Report one try and free its slots."""
        progress = self.answer.progress
        self.race.leave(
            attempt,
            result,
            final=final,
            completion_tokens=progress.tokens,
            cached_tokens=progress.cached_tokens,
            prefix=prefix,
            truncated=any(choice.finish == "length" for choice in progress.choices),
        )
