"""The models of one call, in the order in which they are tried, and what each of them said.

The first that can be served now is used; the others stay as they were given. One that fails
before anything was written gives way to the next, if what it failed for is about that model.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from market.errors import MarketError
from market.messages import KeyRecord
from market.routing.messages import Quote, RouteRequest
from market.types import ModelId, RequestId
from serve_app.desk import Desk
from serve_app.prepare import Begun, Prepared
from serve_app.preparing import Preparing
from serve_app.wishes import ModelWish, Wishes

OF_ONE_MODEL: Final = frozenset(
    {
        "attempts_exhausted",
        "budget_exceeded",
        "deadline_infeasible",
        "invalid_job",
        "model_not_allowed",
        "no_provider",
        "no_provider_matches",
        "queue_full",
        "queue_share",
        "queue_timeout",
    }
)
"""Codes of refusals that another model may not meet: its Macs, its queue, its price."""
FOR_ITS_SIZE: Final = frozenset({"context", "memory"})
"""What rules Macs out by the prompt's length, which another tokeniser counts otherwise."""


class Fallbacks:
    """Gives out one prepared call after the other until one of them has been served."""

    def __init__(
        self,
        desk: Desk,
        preparing: Preparing,
        begun: Begun,
        wishes: Wishes,
        key: KeyRecord,
        started_s: float,
        body_bytes: int,
    ) -> None:
        """`wishes` are the call's with the caller's own machines. Seconds are monotonic."""
        self._desk = desk
        self._preparing = preparing
        self._call = begun.call
        self._wishes = wishes
        self._key = key
        self._started_s = started_s
        self._body_bytes = body_bytes
        self._ready: dict[str, Prepared | MarketError] = {wishes.models[0].id: begun.first}
        self._left = list(wishes.models)
        self._said: list[tuple[str, MarketError]] = []
        self._current = wishes.models[0]
        self._ordered = False

    async def next(self, request_id: RequestId, *, drop_hopeless: bool) -> Prepared:
        """The call for the next model that can be prepared; raises what all of them said.

        `drop_hopeless` leaves out the models that the router would refuse anyway: not for a
        call under its caller's own key, whose answer may be kept already.
        """
        while self._left:
            model = self._current = self._left.pop(0)
            try:
                prepared = await self._prepared(model)
            except MarketError as error:
                self._said.append((model.id, error))
                continue
            if self._ordered or not self._left:
                return self._patient(prepared)
            self._ordered = True
            self._ready[model.id] = prepared
            self._left.insert(0, model)
            await self._order(prepared, request_id, drop_hopeless=drop_hopeless)
        raise self._all()

    def fails(self, error: MarketError) -> MarketError | None:
        """The model that was given out last has failed: what to tell, None to try the next."""
        if error.code not in OF_ONE_MODEL:
            return self._together(self._current.id, error)
        self._said.append((self._current.id, error))
        return None if self._left else self._all()

    async def _prepared(self, model: ModelWish) -> Prepared:
        found = self._ready.get(model.id)
        if found is None:
            account = self._key.account
            found = await self._preparing.prepare(self._call, model, account, self._body_bytes)
        if isinstance(found, MarketError):
            raise found
        return self._preparing.wanting(
            found, self._wishes, model, self._key.account, self._started_s
        )

    def _patient(self, prepared: Prepared) -> Prepared:
        """With its share of the time that the whole request may wait."""
        total_s, others = prepared.wanted.patience_s, len(self._left)
        if not others and not self._said:
            return prepared
        spent_s = self._desk.ports.clock.monotonic_s() - self._started_s
        share_s = max(total_s / len(self._wishes.models), (total_s - spent_s) / (others + 1))
        return replace(prepared, wanted=replace(prepared.wanted, patience_s=share_s))

    # ── which first ──────────────────────────────────────────────────────────────────

    async def _order(
        self, prepared: Prepared, request_id: RequestId, *, drop_hopeless: bool
    ) -> None:
        """Put the models that can be served now before those that would have to wait."""
        questions = [self._question(model, prepared, request_id) for model in self._left]
        asked = [question for question in questions if question is not None]
        try:
            quotes = await asyncio.gather(*map(self._desk.ports.router.quote, asked))
        except MarketError:
            return  # the router is away: the caller's own order stands
        by_model = {str(one.model): quote for one, quote in zip(asked, quotes, strict=True)}
        counted = prepared.card.id
        now, later = [], []
        for model in self._left:
            quote = by_model.get(model.id)
            error = quote.error if quote is not None else None
            if quote is not None and quote.served_now:
                now.append(model)
            elif not drop_hopeless or not isinstance(error, MarketError):
                later.append(model)
            elif model.id != counted and quote is not None and _for_its_size(quote):
                later.append(model)  # asked in earnest, with the length that is its own
            elif error.code in OF_ONE_MODEL:
                self._said.append((model.id, error))
            else:
                raise error  # about the caller or the market: every model would say it
        self._left = now + later

    def _question(
        self, model: ModelWish, like: Prepared, request_id: RequestId
    ) -> RouteRequest | None:
        """The first question for a model, its prompt as long as that of the one prepared.

        None for a model that this gateway cannot serve, which is found out in its turn.
        """
        ports = self._desk.ports
        card = ports.catalogue.cards.get(ModelId(model.id))
        served = None if card is None else ports.models.get(card.id)
        if card is None or not card.enabled or served is None:
            return None
        call, price = like.call, self._preparing.price(card)
        wanted = replace(like.wanted, price=price, preferences=self._wishes.of(model))
        context = min(card.context_tokens, served.context_tokens)
        room = max(min(card.max_output_tokens, context - len(like.prompt_ids)), 1)
        same = model.id == like.card.id
        asked = like if same else replace(like, card=card, max_tokens_cap=room, prefix=())
        return replace(asked, wanted=wanted).request(
            request_id,
            ports.gateway,
            self._key.account,
            ports.clock.monotonic_s(),
            max_tokens=call.max_tokens or asked.max_tokens_cap,
            price=price,
        )

    # ── what all of them said ────────────────────────────────────────────────────────

    def _all(self) -> MarketError:
        """Every model has failed: what the last of the caller's own order said, and the others."""
        places = {model.id: at for at, model in enumerate(self._wishes.models)}
        self._said.sort(key=lambda said: places[said[0]])
        return self._together(*self._said.pop())

    def _together(self, model: str, last: MarketError) -> MarketError:
        """A refusal, with what the other models said."""
        if not self._said:
            return last
        tried = " ".join(f"{name}: {error.message}" for name, error in self._said)
        return type(last)(
            f"{model}: {last.message} And of the others: {tried}",
            last.param,
            last.code,
            last.retry_after_s,
            last.retry,
            last.rate,
        )


def _for_its_size(quote: Quote) -> bool:
    """Whether the length of the prompt is among what keeps a model from serving it."""
    too_long = any(reason in FOR_ITS_SIZE for reason, _, _ in quote.ruled_out)
    return too_long or getattr(quote.error, "code", None) == "deadline_infeasible"
