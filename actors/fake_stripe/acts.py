"""What the other people do, on order: the payer, the banks, the account's owner, the clock."""

from __future__ import annotations

from collections.abc import Callable

from actors.fake_stripe import accounts, checkout, disputes, refunds
from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.ledger import balance, sums
from actors.fake_stripe.world import World

ADVANCE_MAX_S = 10 * 366 * 86_400

Act = Callable[[World, Json], Json]


def _session(world: World, body: Json) -> Json:
    return world.get("checkout.session", body.get("id"), status=400)


def _pay(world: World, body: Json) -> Json:
    session = _session(world, body)
    checkout.pay(world, session)
    return session


def _decline(world: World, body: Json) -> Json:
    session = _session(world, body)
    checkout.decline(world, session)
    return session


def _pay_later(world: World, body: Json) -> Json:
    session = _session(world, body)
    checkout.pay_later(world, session)
    return session


def _settle(paid: bool) -> Act:
    def act(world: World, body: Json) -> Json:
        session = _session(world, body)
        checkout.settle(world, session, paid=paid)
        return session

    return act


def _expire(world: World, body: Json) -> Json:
    return checkout.expire(world, _session(world, body))


def _open_dispute(world: World, body: Json) -> Json:
    intent = world.get("payment_intent", body.get("id"), status=400)
    return disputes.open_dispute(world, intent, body.get("amount"))


def _close_dispute(won: bool) -> Act:
    def act(world: World, body: Json) -> Json:
        dispute = world.get("dispute", body.get("id"), status=400)
        disputes.close_dispute(world, dispute, won=won)
        return dispute

    return act


def _fail_refund(world: World, body: Json) -> Json:
    refund = world.get("refund", body.get("id"), status=400)
    refunds.fail(world, refund)
    return refund


def _settle_refund(world: World, body: Json) -> Json:
    refund = world.get("refund", body.get("id"), status=400)
    refunds.settle(world, refund)
    return refund


def _account_is(state: str) -> Act:
    def act(world: World, body: Json) -> Json:
        account = world.get("v2.core.account", body.get("id"), status=400)
        accounts.set_state(world, account, state)
        return account

    return act


def _advance(world: World, body: Json) -> Json:
    seconds = body.get("seconds")
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise Refusal("Say how far: whole seconds.", param="seconds")
    if not 0 <= seconds <= ADVANCE_MAX_S:
        raise Refusal("The clock only goes forward, by at most ten years.", param="seconds")
    pending_before = sums(world)[1]
    world.offset_s += seconds
    checkout.expire_due(world)
    world.forget_old()
    if sums(world)[1] != pending_before:
        world.announce("balance.available", balance(world))
    return {"object": "clock", "now": world.now_s()}


ACTS: dict[str, Act] = {
    "pay": _pay,
    "decline": _decline,
    "pay_later": _pay_later,
    "later_paid": _settle(paid=True),
    "later_failed": _settle(paid=False),
    "expire": _expire,
    "open_dispute": _open_dispute,
    "win_dispute": _close_dispute(won=True),
    "lose_dispute": _close_dispute(won=False),
    "fail_refund": _fail_refund,
    "settle_refund": _settle_refund,
    "complete_onboarding": _account_is("active"),
    "review_account": _account_is("pending"),
    "restrict_account": _account_is("restricted"),
    "advance": _advance,
}


def perform_act(world: World, body: Json) -> Json:
    """Do the act that `body["act"]` names. Raises Refusal before anything has changed."""
    act = ACTS.get(body["act"]) if isinstance(body.get("act"), str) else None
    if act is None:
        raise Refusal(f"The act must be one of {', '.join(sorted(ACTS))}.", param="act")
    thing = act(world, body)
    return world.show(thing)
