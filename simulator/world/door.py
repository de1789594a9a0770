"""The simulated gateway: one request's life, as `serve_app` lives it, under the virtual clock.

Admit, route, submit, hear, go on where a Mac was lost, try a second beside a slow one, settle.
Router and ledger are the live ones; only the wire between them is a delay.
"""

from __future__ import annotations

from collections.abc import Callable

from market.errors import MarketError
from market.messages import Admit, Admitted, Funding, Part, Settle, Void
from market.policy.counterfactual import regret_ms
from market.routing.messages import Busy, GatewayBeat, Grant, Outcome, Refused, RouteRequest
from market.routing.state import RouterState
from market.types import AccountId, GatewayId, MachineId, RequestId, Usage
from simulator.records import Arrival, Ended
from simulator.world.bank import Bank
from simulator.world.calls import Call, Try
from simulator.world.kernel import Kernel
from simulator.world.mac import Job
from simulator.world.stand import Stand

GATEWAY = GatewayId("gw_sim")
HOP_S = 0.001
"""One message between two processes, the wire included."""

DEATH_S = 0.05
"""Until a gateway hears that a Mac's connection is gone."""

FIRST_TOKEN_S = 60.0
STALL_S = 30.0
TOTAL_S = 600.0
QUEUE_S = 30.0
QUEUE_BATCH_S = 300.0
ATTEMPTS_MAX = 3
"""As `serve_app.limits` has them."""


class Door:
    """All requests of a run, from arrival to end."""

    def __init__(
        self,
        kernel: Kernel,
        router: RouterState,
        bank: Bank,
        stands: dict[MachineId, Stand],
        ended: Callable[[Ended], None],
    ) -> None:
        self._kernel = kernel
        self._router = router
        self._bank = bank
        self._stands = stands
        self._tell = ended
        self._calls: dict[RequestId, Call] = {}
        self._granted: dict[tuple[RequestId, int], MachineId] = {}
        self._waiting: dict[RequestId, Call] = {}

    @property
    def open(self) -> int:
        return len(self._calls)

    # ── arriving ──────────────────────────────────────────────────────────────────────

    def arrive(self, arrival: Arrival) -> None:
        """A client sends its request."""
        now_s = self._kernel.now_s
        ended = Ended(arrival)
        request_id = RequestId(f"req_{arrival.number}")
        op = Admit(
            request_id=request_id,
            key_hash=self._bank.key_of(arrival.consumer),
            model=arrival.model,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.max_tokens,
            max_tokens_cap=arrival.max_tokens,
        )
        try:
            admitted = self._bank.apply(op, now_s)
        except MarketError as error:
            self._refuse(ended, error, 0.0)
            return
        assert isinstance(admitted, Admitted)
        call = Call(arrival, ended, request_id, admitted, now_s)
        self._calls[request_id] = call
        self._kernel.after(TOTAL_S, self._overdue, call)
        self._ask(call)

    def _ask(self, call: Call) -> None:
        """Ask for a slot, and wait in the queue if none is free."""
        call.waiting_since_s = self._kernel.now_s
        request = self._request(call, call.admitted.funding)
        (answer,) = self._router.route([request], self._kernel.now_s)
        self._answered(call, answer)
        self.collect()

    def _request(self, call: Call, funding: Funding | None, *, hedge: bool = False) -> RouteRequest:
        arrival, admitted = call.arrival, call.admitted
        now_s = self._kernel.now_s
        passed_s = now_s - call.at_s
        is_batch = arrival.request_class == "batch"
        return RouteRequest(
            request_id=call.request_id,
            gateway=GATEWAY,
            consumer=AccountId(arrival.consumer),
            model=arrival.model,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.max_tokens,
            request_class=arrival.request_class,
            attempt=call.ended.attempts + 1,
            excluded=call.tried,
            deadline_s=QUEUE_BATCH_S if is_batch else QUEUE_S,
            funding=funding,
            finish_by_s=None if arrival.deadline_s is None else arrival.deadline_s - passed_s,
            preferences=arrival.preferences,
            price_in_nano=admitted.price_in_nano,
            price_out_nano=admitted.price_out_nano,
            prefix=arrival.prefix,
            session=arrival.session,
            digest=call.digest if call.said else "",
            said_tokens=call.said,
            hedge=hedge,
        )

    def _answered(self, call: Call, answer: Grant | Busy | MarketError) -> None:
        if isinstance(answer, Grant):
            self._begin(call, answer)
        elif isinstance(answer, Busy):
            self._waiting[call.request_id] = call
        else:
            self._no_mac(call, answer)

    def collect(self) -> None:
        """Take what the router has decided about those that wait."""
        while self._router.woken():
            for letter in self._router.take_mail(GATEWAY):
                call = self._waiting.pop(letter.request_id, None)
                if call is None:
                    continue
                if isinstance(letter, Refused):
                    assert isinstance(letter.error, MarketError)
                    self._no_mac(call, letter.error)
                else:
                    self._begin(call, letter)

    def _no_mac(self, call: Call, error: MarketError) -> None:
        """Nobody for it: the end, in the middle of an answer too."""
        if call.said:
            self._fail(call, "provider_lost")
            return
        self._bank.apply(Void(call.request_id, error.code or "refused"), self._kernel.now_s)
        del self._calls[call.request_id]
        call.over = True
        self._refuse(call.ended, error, self._kernel.now_s - call.at_s)

    def _refuse(self, ended: Ended, error: MarketError, after_s: float) -> None:
        ended.status, ended.code = "refused", error.code or error.type
        ended.e2e_s = after_s
        self._tell(ended)

    # ── on a Mac ──────────────────────────────────────────────────────────────────────

    def _begin(self, call: Call, grant: Grant) -> None:
        now_s = self._kernel.now_s
        call.ended.attempts += 1
        call.tried = (*call.tried, grant.machine)
        call.digest = grant.digest
        self._granted[call.request_id, grant.attempt] = grant.machine
        if call.ended.predicted_ttft_s is None:
            call.ended.predicted_ttft_s = grant.predicted_ttft_ms / 1e3
            call.ended.wait_s = now_s - call.waiting_since_s
            decision = self._router.decision_of(call.request_id)
            call.ended.regret_ms = regret_ms(decision) if decision is not None else 0.0
        one = Try(grant, self._stands[grant.machine], before=call.said, begun_s=now_s)
        call.tries.append(one)
        self._kernel.after(HOP_S, self._submit, call, one)
        if grant.hedge_after_ms > 0:
            self._kernel.after(grant.hedge_after_ms / 1e3, self._hedge, call, one)

    def _submit(self, call: Call, one: Try) -> None:
        if call.over or one.over:
            return
        arrival = call.arrival
        prompt = arrival.prompt_tokens + call.said
        job = Job(
            request_id=RequestId(f"{call.request_id}:{one.grant.attempt}"),
            model=arrival.model,
            prompt_tokens=prompt,
            tokens=arrival.output_tokens - call.said,
            cached_tokens=0,
            left=prompt,
            leaves=arrival.leaves,
            first=lambda _job: self._first(call, one),
            ended=lambda _job: self._finished(call, one),
        )
        one.job = job
        refusal = one.stand.submit(job, arrival.prefix, lambda: self._lost(call, one))
        if refusal is not None:
            self._kernel.after(HOP_S, self._failed, call, one, refusal)
        else:
            self._kernel.after(FIRST_TOKEN_S, self._silent, call, one)

    def _first(self, call: Call, one: Try) -> None:
        """The first token of one try: it leads, and a second one is let go."""
        now_s = self._kernel.now_s
        one.first_s = now_s
        if call.over or one.over:
            return
        call.lead = one
        for other in [each for each in call.tries if each is not one and not each.over]:
            self._let_go(call, other, "cancelled")
        if call.ended.ttft_s is None:
            call.ended.ttft_s = now_s + HOP_S - call.at_s

    def _finished(self, call: Call, one: Try) -> None:
        """Everything has been said."""
        if call.over or one.over:
            return
        assert one.job is not None
        call.said = one.before + one.job.said
        job = one.job
        self._report(call, one, "ok", final=True, cached=min(job.cached_tokens, self._prompt(call)))
        usage = Usage(self._prompt(call), call.said, min(job.cached_tokens, self._prompt(call)))
        grant = one.grant
        settled = self._bank.apply(
            Settle(
                request_id=call.request_id,
                payee=grant.payee,
                machine=grant.machine,
                provider=grant.provider,
                usage=usage,
                finish_reason="stop",
                attempts=call.ended.attempts,
                ask_pct=grant.ask_pct,
                before=tuple(call.parts),
            ),
            self._kernel.now_s,
        )
        own = call.said - sum(part.completion_tokens for part in call.parts)
        one.stand.served(self._prompt(call), usage.cached_tokens, own)
        for part in call.parts:
            self._stands[part.machine].served(0, 0, part.completion_tokens)
        ended = call.ended
        ended.cached_tokens = usage.cached_tokens
        ended.cost_nano = getattr(settled, "cost_nano", 0)
        ended.provider_nano = getattr(settled, "provider_nano", 0)
        ended.fee_nano = getattr(settled, "fee_nano", 0)
        self._end(call, "ok", "")
        self.collect()

    def _prompt(self, call: Call) -> int:
        return call.arrival.prompt_tokens

    # ── losing a Mac ──────────────────────────────────────────────────────────────────

    def _lost(self, call: Call, one: Try) -> None:
        """Its Mac is gone with the job; the gateway hears it a moment later."""
        self._kernel.after(DEATH_S, self._failed, call, one, "failed")

    def _silent(self, call: Call, one: Try) -> None:
        """No first token within what a gateway waits."""
        if not call.over and not one.over and one.first_s is None:
            self._failed(call, one, "failed")

    def _hangs(self, call: Call, one: Try) -> None:
        if not call.over and not one.over:
            self._failed(call, one, "failed")

    def stalled(self, stand: Stand) -> None:
        """A Mac hangs: whoever is being answered there waits as long as a gateway waits."""
        for call in list(self._calls.values()):
            for one in call.tries:
                if one.stand is stand and not one.over:
                    self._kernel.after(STALL_S, self._hangs, call, one)

    def _failed(self, call: Call, one: Try, result: str) -> None:
        """One try has failed: another Mac goes on, or begins, or the request ends."""
        if call.over or one.over:
            return
        own = self._said_by(one)
        others = [each for each in call.tries if each is not one and not each.over]
        tried_out = call.ended.attempts >= ATTEMPTS_MAX
        self._let_go(call, one, result, final=tried_out and not others)
        if others and call.lead is not one:
            self.collect()
            return
        if own:
            grant = one.grant
            part = Part(grant.payee, grant.machine, grant.provider, own, grant.ask_pct)
            call.parts.append(part)
            call.said += own
            call.ended.continuations += not tried_out
        call.lead = None
        if tried_out:
            self._fail(call, "provider_lost" if call.said else "attempts_exhausted")
        else:
            self._ask(call)

    def _said_by(self, one: Try) -> int:
        if one.job is None or one.first_s is None:
            return 0
        return one.stand.said(one.job)

    def _let_go(self, call: Call, one: Try, result: str, *, final: bool = False) -> None:
        one.stand.cancel(one.job)
        self._report(call, one, result, final=final)

    def _report(self, call: Call, one: Try, result: str, *, final: bool, cached: int = 0) -> None:
        now_s = self._kernel.now_s
        one.over = True
        self._granted.pop((call.request_id, one.grant.attempt), None)
        outcome = Outcome(
            request_id=call.request_id,
            attempt=one.grant.attempt,
            machine=one.grant.machine,
            result=result,
            final=final,
            completion_tokens=call.said,
            cached_tokens=cached,
            ttft_ms=None if one.first_s is None else (one.first_s - one.begun_s) * 1e3,
            total_ms=(now_s - one.begun_s) * 1e3,
            prefix=call.arrival.leaves if result == "ok" else (),
            truncated=call.said >= call.arrival.max_tokens,
        )
        self._router.report([outcome], now_s)

    def _hedge(self, call: Call, beside: Try) -> None:
        """A second try beside one that has said nothing yet."""
        alone = call.tries == [beside]
        if call.over or beside.over or beside.first_s is not None or not alone:
            return
        (answer,) = self._router.route([self._request(call, None, hedge=True)], self._kernel.now_s)
        if isinstance(answer, Grant):
            call.ended.hedged = True
            self._begin(call, answer)

    # ── the end ───────────────────────────────────────────────────────────────────────

    def _overdue(self, call: Call) -> None:
        if call.over:
            return
        for one in [each for each in call.tries if not each.over]:
            self._let_go(call, one, "cancelled", final=True)
        self._fail(call, "deadline")

    def _fail(self, call: Call, code: str) -> None:
        """An answer that breaks off costs nobody anything."""
        self._bank.apply(Void(call.request_id, code), self._kernel.now_s)
        if self._waiting.pop(call.request_id, None) is not None:
            left = Outcome(call.request_id, 0, MachineId(""), "cancelled", final=True)
            self._router.report([left], self._kernel.now_s)
        self._end(call, "failed", code)
        self.collect()

    def _end(self, call: Call, status: str, code: str) -> None:
        call.over = True
        del self._calls[call.request_id]
        ended = call.ended
        ended.status, ended.code = status, code
        ended.said_tokens = call.said
        ended.e2e_s = self._kernel.now_s + HOP_S - call.at_s
        ended.macs = tuple(self._stands[machine].number for machine in call.tried)
        self._tell(ended)

    def close(self) -> None:
        """The run is over: what is still open is told as open, and nobody pays for it."""
        for call in list(self._calls.values()):
            self._bank.apply(Void(call.request_id, "run_over"), self._kernel.now_s)
            self._end(call, "open", "")

    def beat(self) -> GatewayBeat:
        """What a gateway declares: what it holds, and what it waits for."""
        running = tuple((r, a, m, 1) for (r, a), m in self._granted.items())
        return GatewayBeat(GATEWAY, 1, "sim", running, tuple(self._waiting))
