"""From a body's bytes to a call with its prompt in tokens: everything checked beforehand.

Pure but for the tokenizer; runs on the loop for small bodies and on a worker thread for
large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from market.accounting.prices import Price
from market.catalogue import Catalogue, ModelCard
from market.errors import InvalidRequest, MarketError, Unavailable
from market.messages import Admitted, Funding
from market.policy.preferences import NO_PREFERENCES, Preferences
from market.policy.prefixes import block_hashes
from market.routing.messages import RouteRequest
from market.types import AccountId, GatewayId, Job, MachineId, RequestClass, RequestId
from serve_app.json_body import decode_object
from serve_app.parameters import Call, Kind, read_call
from serve_app.ports import ModelsPort, ServedModelPort
from serve_app.wishes import ModelWish

DEADLINE_S_MIN = 0.001
"""What is left of a deadline that has passed: no time to wait, and a refusal that says so."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the router is told beside a job's size.

    `price` is the present one until a hold has frozen another. `patience_s` is how long the
    request waits for a slot, `finish_at_s` its own deadline on the monotonic clock.
    """

    price: Price
    patience_s: float
    preferences: Preferences = NO_PREFERENCES
    request_class: RequestClass = "interactive"
    finish_at_s: float | None = None
    session: str = ""


NOT_YET: Final = Wanted(Price(0, 0, 0), 0.0)
"""Of a call that was tokenised and is not yet on its way."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that could run: its card, its prompt and the room left for an answer.

    `prefix` are the hashes of the prompt's blocks; `wanted` is filled in before it runs.
    """

    call: Call
    card: ModelCard
    prompt_ids: tuple[int, ...]
    max_tokens_cap: int
    prefix: tuple[int, ...]
    wanted: Wanted

    def wanting(self, wanted: Wanted) -> Prepared:
        """The same, on its way. Once a request: `dataclasses.replace` costs ten times as much."""
        return Prepared(
            self.call, self.card, self.prompt_ids, self.max_tokens_cap, self.prefix, wanted
        )

    @property
    def max_tokens(self) -> int:
        """The longest an answer can become, before a hold says otherwise."""
        return self.call.max_tokens or self.max_tokens_cap

    def job(self, request_id: RequestId, admitted: Admitted) -> Job:
        """What a Mac is asked to do; its cache is shared with nobody but this account."""
        call = self.call
        return Job(
            request_id=request_id,
            model=self.card.id,
            prompt_ids=self.prompt_ids,
            max_tokens=admitted.max_tokens,
            sampling=call.sampling,
            stop=call.stop,
            n=call.n,
            top_logprobs=call.top_logprobs,
            cache_scope=admitted.account,
        )

    def request(
        self,
        request_id: RequestId,
        gateway: GatewayId,
        consumer: AccountId,
        now_s: float,
        *,
        max_tokens: int,
        price: Price,
        attempt: int = 1,
        excluded: tuple[MachineId, ...] = (),
        funding: Funding | None = None,
        digest: str = "",
        said_tokens: int = 0,
        hedge: bool = False,
    ) -> RouteRequest:
        """What the router is asked; `now_s` is of the monotonic clock.

        Who goes on after `said_tokens` has no deadline: what has begun is not broken off.
        """
        wanted, left_s = self.wanted, None
        if wanted.finish_at_s is not None and not said_tokens:
            left_s = round(max(wanted.finish_at_s - now_s, DEADLINE_S_MIN), 3)
        return RouteRequest(
            request_id=request_id,
            gateway=gateway,
            consumer=consumer,
            model=self.card.id,
            prompt_tokens=len(self.prompt_ids),
            max_tokens=max_tokens,
            n=self.call.n,
            request_class=wanted.request_class,
            attempt=attempt,
            excluded=excluded,
            deadline_s=wanted.patience_s if left_s is None else min(wanted.patience_s, left_s),
            funding=funding,
            finish_by_s=left_s,
            preferences=wanted.preferences,
            price_in_nano=price.in_nano,
            price_out_nano=price.out_nano,
            prefix=self.prefix,
            session=wanted.session,
            digest=digest,
            said_tokens=said_tokens,
            hedge=hedge,
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that was understood, and its first model: prepared, or what is wrong with it."""

    call: Call
    first: Prepared | MarketError


def begin(
    kind: Kind | None,
    body: bytes,
    route: str | None,
    account: AccountId,
    catalogue: Catalogue,
    models: ModelsPort,
) -> Begun:
    """Decode, validate and tokenise for the first model. Raises what is wrong with the body.

    Without a `kind` it is what the body looks like.
    """
    told = decode_object(body)
    if kind is None:
        kind = "completion" if "prompt" in told and "messages" not in told else "chat"
    call = read_call(kind, told, route)
    try:
        return Begun(call, prepare(call, call.wishes.models[0], account, catalogue, models))
    except MarketError as error:
        return Begun(call, error)


def prepare(
    call: Call, model: ModelWish, account: AccountId, catalogue: Catalogue, models: ModelsPort
) -> Prepared:
    """Check and tokenise a call for one model. Raises InvalidRequest, NotFound, Unavailable.

    Whatever it raises is about this model: another one may do.
    """
    card = catalogue.get(model.id)
    served = models.get(card.id)
    if served is None:
        raise Unavailable(
            f"No Mac offers {card.id} now; GET /v1/models shows what is ready.",
            "model",
            "no_provider",
            30.0,
        )
    _check_vocabulary(call, served)
    if call.kind == "chat":
        prompt_ids = served.chat(call.messages)
    elif isinstance(call.prompt, str):
        prompt_ids = served.text(call.prompt)
    else:
        prompt_ids = call.prompt
    field = "messages" if call.kind == "chat" else "prompt"
    if not prompt_ids:
        raise InvalidRequest(f"{field} comes to no tokens at all.", field, "empty")
    cap = _room(call, card, len(prompt_ids), min(card.context_tokens, served.context_tokens), field)
    prefix = block_hashes(prompt_ids, account, card.id)
    return Prepared(call, card, prompt_ids, cap, prefix, NOT_YET)


def _room(call: Call, card: ModelCard, prompt_tokens: int, context: int, field: str) -> int:
    """Completion tokens that fit; InvalidRequest with the arithmetic when they do not."""
    left = context - prompt_tokens
    if left < 1:
        raise InvalidRequest(
            f"The prompt has {prompt_tokens} tokens and leaves no room for an answer: "
            f"{card.id} serves {context} in all.",
            field,
            "context_length_exceeded",
        )
    wanted = call.max_tokens
    if wanted is not None and wanted > left:
        raise InvalidRequest(
            f"prompt {prompt_tokens} + {call.max_tokens_field} {wanted} = "
            f"{prompt_tokens + wanted} > {context} tokens served by {card.id}.",
            call.max_tokens_field,
            "context_length_exceeded",
        )
    if wanted is not None and wanted > card.max_output_tokens:
        raise InvalidRequest(
            f"{call.max_tokens_field} {wanted} > {card.max_output_tokens}, the longest answer "
            f"of {card.id}.",
            call.max_tokens_field,
            "out_of_range",
        )
    return min(card.max_output_tokens, left)


def _check_vocabulary(call: Call, served: ServedModelPort) -> None:
    vocabulary = served.vocab_size
    if call.sampling.top_k >= vocabulary:
        raise InvalidRequest(
            f"top_k must be below {vocabulary}, the model's vocabulary.", "top_k", "out_of_range"
        )
    for token_id, _ in call.sampling.logit_bias:
        if token_id >= vocabulary:
            raise InvalidRequest(
                f"logit_bias names token {token_id}; the model has {vocabulary}.",
                "logit_bias",
                "out_of_range",
            )
    if not isinstance(call.prompt, str) and max(call.prompt, default=0) >= vocabulary:
        raise InvalidRequest(
            f"prompt has a token id beyond the model's vocabulary of {vocabulary}.",
            "prompt",
            "out_of_range",
        )
