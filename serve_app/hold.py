"""One request's money: a hold that ends in exactly one settle or one void.

The ending is chosen once and then only repeated, so that it may be called from the middle
of anything: a failed attempt, a client that left, a cancelled task.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.errors import Internal, MarketError, Unavailable
from market.messages import Admit, Admitted, Checkpoint, Part, Replay, Settle, Settled, Void
from market.routing.messages import Grant
from market.types import ProviderId, RequestId, Usage
from serve_app.desk import Desk
from serve_app.prepare import Prepared
from serve_app.sealed import OwnKey


class ReplayedError(Exception):
    """The caller's own key was used for this request before: `replay` says what became of it."""

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay.request_id)
        self.replay = replay


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a settle charges for and whom it pays. `finish_reason` ends up in usage."""

    grant: Grant
    usage: Usage
    finish_reason: str
    attempts: int
    ttft_ms: float
    total_ms: float
    before: tuple[Part, ...] = ()

    def cost_nano(self, admitted: Admitted) -> int:
        """What it costs at the frozen prices and at what each Mac asks."""
        return admitted.cost_nano(self.usage, self.before, self.grant.ask_pct)

    def shares(self) -> tuple[tuple[ProviderId, int], ...]:
        """Completion tokens by Mac, in order; empty when one Mac said all."""
        if not self.before:
            return ()
        said = [(part.provider, part.completion_tokens) for part in self.before]
        own = self.usage.completion_tokens - sum(tokens for _, tokens in said)
        return (*said, (self.grant.provider, own))


class Hold:
    """The hold of one request, from before it exists until it has ended."""

    def __init__(
        self,
        desk: Desk,
        prepared: Prepared,
        request_id: RequestId,
        key_hash: bytes,
        own_key: OwnKey | None = None,
    ) -> None:
        self._desk = desk
        self._prepared = prepared
        self._request_id = request_id
        self._key_hash = key_hash
        self._own_key = own_key
        self._may_exist = False
        self._ending: Settle | Void | None = None
        self.admitted: Admitted | None = None

    @property
    def charged(self) -> bool:
        """Its ending is a charge, whether or not the ledger has confirmed it yet."""
        return isinstance(self._ending, Settle)

    async def admit(self) -> Admitted:
        """Key, rate, limits and hold in one step; raises the accountant's refusal.

        Raises ReplayedError when the caller's own key has had its answer before.
        """
        prepared, call, own = self._prepared, self._prepared.call, self._own_key
        op = Admit(
            request_id=self._request_id,
            key_hash=self._key_hash,
            model=prepared.card.id,
            prompt_tokens=len(prepared.prompt_ids),
            max_tokens=call.max_tokens,
            max_tokens_cap=prepared.max_tokens_cap,
            n=call.n,
            idempotency=None if own is None else own.hash,
            fingerprint=None if own is None else own.fingerprint,
            budget_nano=call.wishes.budget_nano,
        )
        self._may_exist = True
        try:
            reply = await self._desk.ports.accountant.op(op)
        except Unavailable:
            raise  # it may have been applied before its answer was lost
        except MarketError:
            self._may_exist = False
            raise
        if isinstance(reply, Replay):
            self._may_exist = False
            raise ReplayedError(reply)
        if not isinstance(reply, Admitted):
            raise Internal("The accountant answered an admission with something else.")
        self.admitted = reply
        return reply

    async def settle(self, delivery: Delivery, outcome: bytes | None = None) -> Settled:
        """Charge and pay, durably, and keep the sealed `outcome` in the same commit.

        See `Books.settle` for what it may raise.
        """
        ending = self._settle_op(delivery, outcome)
        self._ending = ending
        return await self._desk.books.settle(ending)

    async def void(self, reason: str, attempts: int) -> None:
        """Nobody pays. Does nothing when there is no hold or it has its ending."""
        if self._may_exist and self._ending is None:
            self._ending = Void(self._request_id, reason, max(1, attempts))
            await self._desk.books.void(self._ending)

    def abandon(self, delivery: Delivery | None) -> None:
        """End the hold off the path: charge what was delivered, or nothing at all."""
        if not self._may_exist:
            return
        if self._ending is None:
            self._ending = (
                Void(self._request_id, "client_left", 1)
                if delivery is None
                else self._settle_op(delivery)
            )
        self._desk.background.start(self._desk.books.persist(self._ending))

    def checkpoint(self, usage: Usage, grant: Grant | None, before: tuple[Part, ...] = ()) -> None:
        """Renew the lease; `grant` names the payee once something was delivered."""
        if self.admitted is None or self._ending is not None:
            return
        op = Checkpoint(self._request_id, usage)
        if grant is not None:
            op = Checkpoint(
                self._request_id,
                usage,
                grant.payee,
                grant.machine,
                grant.provider,
                grant.ask_pct,
                before,
            )
        self._desk.background.start(self._desk.books.checkpoint(op))

    def _settle_op(self, delivery: Delivery, outcome: bytes | None = None) -> Settle:
        grant = delivery.grant
        return Settle(
            request_id=self._request_id,
            payee=grant.payee,
            machine=grant.machine,
            provider=grant.provider,
            usage=delivery.usage,
            finish_reason=delivery.finish_reason,
            attempts=delivery.attempts,
            ttft_ms=round(delivery.ttft_ms, 3),
            total_ms=round(delivery.total_ms, 3),
            outcome=outcome,
            ask_pct=grant.ask_pct,
            before=delivery.before,
        )
