"""Quotes: what a request would get and cost, from the very code that would serve it.

No hold, no slot, no place in a queue and no charge comes of one. The body is checked and
tokenised as an inference call's is, and refused for the same reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from market.accounting.holding import cap_of_the_budget
from market.accounting.prices import Price
from market.errors import Forbidden, MarketError
from market.messages import Admit, KeyRecord
from market.money import asked_nano, micro_floor, nano_text, usd_number
from market.routing import messages
from market.routing.messages import Quote
from market.types import RequestId
from serve_app.desk import Desk
from serve_app.envelope import error_object
from serve_app.parameters import Call
from serve_app.prepare import Begun, Prepared
from serve_app.preparing import Preparing
from serve_app.schemas import ErrorDetail
from serve_app.schemas_quote import (
    Amount,
    Band,
    CostBand,
    FullCostBand,
    InferenceQuote,
    ModelQuote,
    QuotedMac,
    RuledOut,
    TokenBand,
)
from serve_app.wishes import ModelWish, Wishes


@dataclass(frozen=True, slots=True)
class Answered:
    """A quote as it is sent, and the parameters of its request that were not used."""

    quote: InferenceQuote
    ignored: tuple[str, ...]


class Quotes:
    """Asks the router what would become of a call, for each of its models."""

    def __init__(self, desk: Desk, preparing: Preparing) -> None:
        self._desk = desk
        self._preparing = preparing

    async def quote(
        self, body: bytes, route: bytes | None, key: KeyRecord, request_id: RequestId
    ) -> Answered:
        """The quote of a body. Raises what is wrong with it, and what its only model lacks."""
        started_s = self._desk.ports.clock.monotonic_s()
        begun = await self._preparing.begin(None, body, route, key.account)
        wishes = begun.call.wishes.owned(key.machines)
        if len(wishes.models) == 1 and isinstance(begun.first, MarketError):
            raise begun.first
        told = []
        for model in wishes.models:
            try:
                prepared = await self._prepared(begun, model, wishes, key, started_s, len(body))
            except MarketError as error:
                told.append(_refused(model.id, error))
                continue
            told.append(await self._of(prepared, key, request_id))
        used = next(
            (one for one in told if one.served_now),
            next((one for one in told if one.error is None), None),
        )
        chosen = [mac.provider for mac in used.candidates if mac.chosen] if used else []
        answer = InferenceQuote(
            model=used.model if used else None,
            provider=chosen[0] if chosen else None,
            models=told,
        )
        return Answered(answer, begun.call.ignored)

    async def _prepared(
        self,
        begun: Begun,
        model: ModelWish,
        wishes: Wishes,
        key: KeyRecord,
        started_s: float,
        body_bytes: int,
    ) -> Prepared:
        found: Prepared | MarketError = begun.first
        if model != wishes.models[0]:
            found = await self._preparing.prepare(begun.call, model, key.account, body_bytes)
        if isinstance(found, MarketError):
            raise found
        if key.limits.models and found.card.id not in key.limits.models:
            raise Forbidden("This key may not use this model.", "model", "model_not_allowed")
        prepared = self._preparing.wanting(found, wishes, model, key.account, started_s)
        if wishes.budget_nano is None:
            return prepared
        op = _admission(prepared)
        cap = cap_of_the_budget(
            op, wishes.budget_nano, prepared.wanted.price, prepared.max_tokens_cap
        )
        return replace(prepared, max_tokens_cap=cap)

    async def _of(self, prepared: Prepared, key: KeyRecord, request_id: RequestId) -> ModelQuote:
        ports = self._desk.ports
        quote = await ports.router.quote(
            prepared.request(
                request_id,
                ports.gateway,
                key.account,
                ports.clock.monotonic_s(),
                max_tokens=prepared.max_tokens,
                price=prepared.wanted.price,
            )
        )
        return _told(prepared, quote)


def _admission(prepared: Prepared) -> Admit:
    """What the accountant would be asked, as far as a budget depends on it."""
    call: Call = prepared.call
    return Admit(
        request_id=RequestId(""),
        key_hash=b"",
        model=prepared.card.id,
        prompt_tokens=len(prepared.prompt_ids),
        max_tokens=call.max_tokens,
        max_tokens_cap=prepared.max_tokens_cap,
        n=call.n,
    )


def _told(prepared: Prepared, quote: Quote) -> ModelQuote:
    most = prepared.max_tokens
    tokens = TokenBand(
        p50=min(round(quote.tokens), most), p90=min(round(quote.high_tokens), most), max=most
    )
    macs = [_mac(prepared, tokens, mac) for mac in quote.macs]
    cost = None
    if macs:
        longest = _cost_nano(prepared, tokens.max, 100)
        cost = FullCostBand(p50=macs[0].cost.p50, p90=macs[0].cost.p90, max=_amount(longest))
    return ModelQuote(
        model=prepared.card.id,
        served_now=quote.served_now,
        prompt_tokens=len(prepared.prompt_ids),
        tokens=tokens,
        wait_s=None if quote.wait_s is None else round(quote.wait_s, 3),
        queued=quote.queued,
        cost=cost,
        candidates=macs,
        candidates_total=quote.able,
        ruled_out=[
            RuledOut(reason=reason, count=count, words=words)
            for reason, count, words in quote.ruled_out
        ],
        summary=quote.words,
        error=_detail(quote.error),
    )


def _refused(model: str, error: MarketError) -> ModelQuote:
    """A model that the call could not even be prepared for."""
    return ModelQuote(
        model=model,
        served_now=False,
        prompt_tokens=None,
        tokens=None,
        wait_s=None,
        queued=0,
        cost=None,
        candidates=[],
        candidates_total=0,
        ruled_out=[],
        summary=error.message,
        error=_detail(error),
    )


def _mac(prepared: Prepared, tokens: TokenBand, mac: messages.QuotedMac) -> QuotedMac:
    return QuotedMac(
        provider=mac.provider,
        chosen=mac.chosen,
        free=mac.free,
        ask_pct=mac.ask_pct,
        cached_tokens=mac.cached_tokens,
        ttft_ms=_band(mac.ttft_ms, mac.high_ttft_ms),
        tokens_per_second=_band(mac.tps, mac.low_tps),
        total_ms=_band(mac.total_ms, mac.high_total_ms),
        cost=CostBand(
            p50=_amount(_cost_nano(prepared, tokens.p50, mac.ask_pct)),
            p90=_amount(_cost_nano(prepared, tokens.p90, mac.ask_pct)),
        ),
    )


def _cost_nano(prepared: Prepared, tokens: int, ask_pct: int) -> int:
    """What answers of so many tokens cost, were nothing of the prompt found in a cache."""
    price: Price = prepared.wanted.price
    prompt_nano = len(prepared.prompt_ids) * asked_nano(price.in_nano, ask_pct)
    return prompt_nano + tokens * prepared.call.n * asked_nano(price.out_nano, ask_pct)


def _amount(nano: int) -> Amount:
    return Amount(nano_usd=nano_text(nano), micro_usd=micro_floor(nano), usd=usd_number(nano))


def _band(p50: float, p90: float) -> Band:
    return Band(p50=round(p50, 3), p90=round(p90, 3))


def _detail(error: Exception | None) -> ErrorDetail | None:
    if not isinstance(error, MarketError):
        return None
    return ErrorDetail.model_validate(error_object(error))
