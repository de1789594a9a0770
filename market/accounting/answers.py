"""What the books answer: replies built from rows, and refusals that say what is in the way."""

from __future__ import annotations

from math import isfinite
from typing import Final

from market.accounting import admission
from market.accounting.customers import Owner
from market.accounting.ledger import OpenHold
from market.accounting.rows import CheckpointRow, HoldRow, RequestRow
from market.errors import Conflict, InvalidRequest
from market.messages import Admit, Admitted, Checkpoint, Funding, Settle, Settled
from market.money import NANO_MAX
from market.types import AccountId, Usage

TEXT_CHARS_MAX: Final = 200
ATTEMPTS_MAX: Final = 1_000
CHOICES_MAX: Final = 128  # OpenAI's own bound on n
TOKENS_MAX: Final = 2**31 - 1  # keeps every sum in int64 at any catalogue price


def admitted(terms: HoldRow, owner: Owner, now_ns: int, tick_ns: int) -> Admitted:
    """The reply to an admission, and to its repetition."""
    return Admitted(
        terms.request_id,
        terms.owner,
        terms.key_id,
        terms.max_tokens,
        Funding(terms.promo_nano, terms.cash_nano, terms.earnings_nano),
        terms.price_in_nano,
        terms.price_out_nano,
        admission.rate_state(owner.meter, owner.tier, now_ns=now_ns, tick_ns=tick_ns),
        terms.cached_price_nano,
    )


def usage_of(row: RequestRow) -> Usage:
    """The four token counts of a finished request."""
    return Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens)


def settled(row: RequestRow) -> Settled:
    """The reply to a settlement, and to its repetition."""
    return Settled(
        row.request_id,
        row.cost_nano,
        row.provider_nano,
        row.fee_nano,
        usage_of(row),
        row.finished_ns / 1e9,
    )


def settled_before(op: Settle, row: RequestRow, *, same_macs: bool) -> Settled:
    """The first answer again, if this is the same settlement; raises Conflict otherwise.

    `same_macs` says whether it pays those who were paid. Timings and attempts may differ:
    they are measurements, not money.
    """
    if row.status != "settled":
        raise other_end(row, "settled")
    same = same_macs and (op.usage, op.finish_reason) == (usage_of(row), row.finish_reason)
    if not same:
        raise Conflict(
            f"The request {row.request_id} was settled with other contents.",
            None,
            "settled_differently",
            None,
            False,
        )
    return settled(row)


def other_end(row: RequestRow, wanted: str) -> Conflict:
    """The request has ended in another way than the caller wants it to."""
    return Conflict(
        f"The request {row.request_id} cannot be {wanted}: it was {row.status} before, "
        f"at a cost of {row.cost_nano} nano-USD.",
        None,
        f"request_{row.status}",
        None,
        False,
    )


def running(opened: OpenHold) -> RequestRow:
    """An open hold in the shape of a request: nothing charged yet."""
    terms, progress = opened.terms, opened.checkpoint
    return RequestRow(
        request_id=terms.request_id,
        owner=terms.owner,
        key_id=terms.key_id,
        model=terms.model,
        status="held",
        prompt_tokens=terms.prompt_tokens,
        completion_tokens=progress.completion_tokens,
        cached_tokens=progress.cached_tokens,
        reasoning_tokens=progress.reasoning_tokens,
        cost_nano=0,
        provider_nano=0,
        fee_nano=0,
        promo_nano=0,
        cash_nano=0,
        earnings_nano=0,
        held_nano=opened.held_nano,
        price_in_nano=terms.price_in_nano,
        price_out_nano=terms.price_out_nano,
        fee_bps=terms.fee_bps,
        max_tokens=terms.max_tokens,
        n=terms.n,
        payee=progress.payee,
        machine=progress.machine,
        provider=progress.provider,
        finish_reason="",
        attempts=0,
        ttft_ms=0.0,
        total_ms=0.0,
        created_ns=terms.created_ns,
        finished_ns=0,
        price_cached_nano=terms.price_cached_nano,
    )


def progress_of(op: Settle | Checkpoint, payee: AccountId | None) -> CheckpointRow:
    """What has been delivered and by whom, as the ledger keeps it."""
    usage = op.usage
    return CheckpointRow(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        payee,
        op.machine,
        op.provider,
        op.ask_pct,
    )


def check_text(name: str, text: str) -> None:
    """Refuse what a ledger row cannot hold as an id or a reason: short, printable ASCII."""
    if not text.isascii() or not text.isprintable() or len(text) > TEXT_CHARS_MAX:
        raise InvalidRequest(
            f"{name} must be at most {TEXT_CHARS_MAX} printable ASCII characters.", name
        )


def check_settle(op: Settle) -> None:
    """Refuse a settlement that could not be written, before it has changed anything."""
    check_text("machine", op.machine)
    check_text("provider", op.provider)
    check_text("finish_reason", op.finish_reason)
    check_attempts(op.attempts)
    if not (isfinite(op.ttft_ms) and isfinite(op.total_ms)):
        raise InvalidRequest("ttft_ms and total_ms must be finite.", "ttft_ms")


def check_attempts(attempts: int) -> None:
    """Refuse a count of attempts that no request can have."""
    if not 0 <= attempts <= ATTEMPTS_MAX:
        raise InvalidRequest(f"attempts must be between 0 and {ATTEMPTS_MAX}.", "attempts")


def check_sizes(op: Admit) -> None:
    """Refuse counts that no request can have, before they meet arithmetic."""
    check_text("request_id", op.request_id)
    if not 0 <= op.prompt_tokens <= TOKENS_MAX:
        raise InvalidRequest(f"A prompt cannot have {op.prompt_tokens} tokens.", "messages")
    if not 1 <= op.n <= CHOICES_MAX:
        raise InvalidRequest(f"n must be between 1 and {CHOICES_MAX}, not {op.n}.", "n")
    if not 1 <= op.max_tokens_cap <= TOKENS_MAX:
        raise InvalidRequest(
            "The prompt leaves no room for an answer in the model's context.",
            "messages",
            "context_length_exceeded",
        )
    if op.max_tokens is not None and not 1 <= op.max_tokens <= op.max_tokens_cap:
        raise InvalidRequest(
            f"max_tokens must be between 1 and {op.max_tokens_cap} here, not {op.max_tokens}.",
            "max_tokens",
        )
    if op.budget_nano is not None and not 0 <= op.budget_nano <= NANO_MAX:
        raise InvalidRequest(
            f"A budget must be from 0 to {NANO_MAX} nano-USD, not {op.budget_nano}.", "max_cost_usd"
        )


def check_usage(usage: Usage, opened: OpenHold) -> None:
    """Refuse a usage that the hold does not cover: the gateway enforces the same bounds."""
    terms = opened.terms
    fits = (
        0 <= usage.cached_tokens <= usage.prompt_tokens <= terms.prompt_tokens
        and 0 <= usage.reasoning_tokens <= usage.completion_tokens
        and usage.completion_tokens <= terms.max_tokens * terms.n
    )
    if not fits:
        raise Conflict(
            f"The usage of {terms.request_id} ({usage.prompt_tokens} prompt, of them "
            f"{usage.cached_tokens} cached; {usage.completion_tokens} completion, of them "
            f"{usage.reasoning_tokens} reasoning) exceeds its hold ({terms.prompt_tokens} prompt, "
            f"{terms.max_tokens} × {terms.n} completion).",
            "usage",
            "usage_exceeds_hold",
            None,
            False,
        )
