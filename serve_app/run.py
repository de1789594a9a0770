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
from market.messages import Admitted, KeyRecord
from market.types import RequestId
from serve_app import metric_names
from serve_app.asgi import ClientLeftError, Message, Send
from serve_app.desk import Desk
from serve_app.endings import overdue, too_slow, unconfirmed
from serve_app.faults import describe_fault
from serve_app.hold import Delivery, Hold, ReplayedError
from serve_app.prepare import Prepared
from serve_app.race import Attempt
from serve_app.recording import Recording
from serve_app.relay import Relay, SlowReaderError
from serve_app.replies import Reply
from serve_app.wire import Bill

_log = logging.getLogger("coster.door")


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
        self._relay = Relay(desk, prepared, request_id, key.account, started_s, self._progressed)
        self._measures = desk.measures.of(prepared.call.kind, prepared.card.id)
        self._reply: Reply
        self._task: asyncio.Task[None] | None = None
        self._cut = False
        self._serving = False  # in `_serve`, where a cancellation is caught
        self._ended: MarketError | None = None
        self._checkpoint_tokens = 0
        # Seconds of the monotonic clock.
        self._started_s = started_s
        self._sending_s: float | None = None  # a write is under way since
        self._checkpoint_s = started_s

    @property
    def admitted(self) -> Admitted | None:
        return self._hold.admitted

    # ── called from outside ──────────────────────────────────────────────────────────

    def left(self) -> None:
        """The client closed its connection: stop the Mac at once, then do the books."""
        self._relay.gone = True
        self._relay.stop()
        self._relay.inbox.poke()

    def end(self, error: MarketError) -> None:
        """The market ends the request: its client is told `error` and nobody pays."""
        self._relay.fault = self._ended = error
        self._relay.inbox.poke()

    def cut(self) -> None:
        """Wait no longer for what holds up an ended request: a reader, an actor, a Mac."""
        caught = self._serving or self._sending_s is not None  # else the books are being done
        if caught and self._task and not self._cut:
            self._cut = True
            self._task.cancel()

    def tick(self, now_s: float) -> None:
        """Look for what no event will tell: silence, deadlines, a reader that stands still."""
        limits, relay = self._desk.limits, self._relay
        if self._sending_s is not None:
            if relay.inbox.full:
                relay.race.stop_all()
            if now_s - self._sending_s > limits.write_s:
                self.cut()
        elif now_s - self._started_s > limits.total_s:
            relay.fault = relay.fault or overdue(limits.total_s)
        else:
            relay.look_for_silence(now_s)
        if now_s - self._checkpoint_s >= limits.checkpoint_s:
            self._checkpoint(now_s)
        relay.inbox.poke()

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
        self._reply = self._relay.reply = reply
        self._task = asyncio.current_task()
        try:
            await self._serve()
        except ReplayedError:
            self._relay.give_up()
            raise
        except (ClientLeftError, ConnectionError):
            self._desk.counters.add(metric_names.CLIENTS_LEFT)
            self._abandon(charge=True)
            self._count_end("client_left")
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
            _log.error("a request failed: %s", describe_fault(error), extra=self._about)
            await self._refuse(Internal("An internal error; it has been recorded."))

    async def _refuse(self, error: MarketError) -> None:
        """End the request with an error; nobody pays unless a settle is under way."""
        if isinstance(error, Unauthenticated):
            self._desk.keys.forget(self._key_hash)
        self._relay.give_up()
        if self._hold.admitted is None or error is self._ended:
            self._hold.abandon(None)  # off the path: who is ended is told at once
        else:
            await self._hold.void(error.code or error.type, self._relay.seat.attempts)
        await self._fail(error)

    async def _fail(self, error: MarketError) -> None:
        self._note(error)
        if self._reply.written:
            self._desk.counters.add(metric_names.STREAMS_BROKEN)
        if not self._relay.gone:
            await self._reply.fail(error)

    @property
    def _about(self) -> dict[str, str]:
        return {"request_id": self._request_id, "model": self._prepared.card.id}

    def _note(self, error: MarketError) -> None:
        """Count and record that the request ends with an error, and which gate said so."""
        relay, code = self._relay, error.code or error.type
        if error is self._ended:
            gate = "draining"
        elif self._hold.admitted is None:
            gate = "admission"
        else:
            gate = "serving" if relay.seat.attempts else "routing"
        self._desk.measures.rejected(gate, code)
        self._count_end(error.type)
        level = logging.INFO if error.status < 500 else logging.WARNING
        about = {**self._about, "gate": gate, "code": code, "status": error.status}
        _log.log(level, "refused", extra=about)

    def _count_end(self, error: str) -> None:
        took_s = self._desk.ports.clock.monotonic_s() - self._started_s
        self._measures.ended(error, took_s, self._relay.seat.attempts)

    # ── the steps ────────────────────────────────────────────────────────────────────

    async def _serve(self) -> None:
        """Admit and route at once; answer; charge; say that all is done.

        One after the other under the caller's own key, which may need no slot at all.
        """
        self._serving = True
        relay = self._relay
        try:
            wanted = self._prepared.call.max_tokens or self._prepared.max_tokens_cap
            early = None if self._recording else relay.ask(wanted)
            admitted = await self._hold.admit()
            attempt = await relay.first(early, admitted)
            attempt = await relay.whole(attempt, admitted)
            await self._settle_and_end(attempt, admitted)
        finally:
            self._serving = False

    def _progressed(self, now_s: float) -> None:
        tokens = self._relay.answer.progress.tokens
        if tokens - self._checkpoint_tokens >= self._desk.limits.checkpoint_tokens:
            self._checkpoint(now_s)

    async def _settle_and_end(self, attempt: Attempt, admitted: Admitted) -> None:
        """The charge is durable before the last chunk says that all is done.

        The last bytes are made before it, with the bill in them, so that an answer that is
        kept is the very one that is sent.
        """
        relay, answer = self._relay, self._relay.answer
        if relay.gone and not self._reply.written:
            raise ClientLeftError
        progress = answer.progress
        relay.leave(attempt, "ok", final=True, prefix=answer.prefix(admitted.account))
        finish = progress.choices[0].finish or "stop"
        delivery = self._delivery(attempt, progress.tokens, finish)
        bill = Bill(
            delivery.usage,
            delivery.cost_nano(admitted),
            attempt.grant.provider,
            relay.seat.attempts,
            delivery.shares(),
        )
        last, outcome = self._reply.last(bill), None
        if self._recording is not None:
            kind = self._reply.content_type
            outcome = self._recording.sealed(admitted.account, self._request_id, kind, last)
        settled = await self._hold.settle(delivery, outcome)
        self._measures.charged(delivery.usage)
        self._measures.answered(
            delivery.usage, self._prepared.call.n, delivery.ttft_ms, delivery.total_ms
        )
        self._count_end("")
        if progress.mismatches:
            self._desk.counters.add(metric_names.COUNT_MISMATCHES, progress.mismatches)
        if (settled.cost_nano, settled.usage) != (bill.cost_nano, bill.usage):
            self._desk.counters.add(metric_names.COST_MISMATCHES)
            _log.error("a request was charged otherwise than computed", extra=self._about)
            last = self._reply.last(replace(bill, cost_nano=settled.cost_nano, usage=settled.usage))
        await self._reply.end(last)

    # ── the end, from anywhere ───────────────────────────────────────────────────────

    def _abandon(self, *, charge: bool) -> None:
        """Leave at once; what was delivered is charged off the path, or nothing is."""
        attempt, delivered = self._relay.race.front, self._reply.delivered
        delivery = None
        if charge and attempt is not None and delivered and self._recording is None:
            delivery = self._delivery(attempt, delivered, "cancelled")
            self._measures.charged(delivery.usage)
        self._relay.give_up()
        self._hold.abandon(delivery)

    def _delivery(self, attempt: Attempt, tokens: int, finish_reason: str) -> Delivery:
        answer = self._relay.answer
        now_s = self._desk.ports.clock.monotonic_s()
        first_s = now_s if answer.first_s is None else answer.first_s
        return Delivery(
            grant=attempt.grant,
            usage=answer.usage(tokens),
            finish_reason=finish_reason,
            attempts=self._relay.seat.attempts,
            ttft_ms=(first_s - self._started_s) * 1000,
            total_ms=(now_s - self._started_s) * 1000,
            before=answer.before(tokens),
        )

    def _checkpoint(self, now_s: float) -> None:
        answer, front = self._relay.answer, self._relay.race.front
        self._checkpoint_s = now_s
        self._checkpoint_tokens = answer.progress.tokens
        delivered = self._reply.delivered if self._recording is None else 0
        grant = front.grant if front is not None and delivered else None
        self._hold.checkpoint(answer.usage(delivered), grant, answer.before(delivered))
