"""From a body's bytes to a call with its prompt in tokens: everything checked beforehand.

Pure but for the tokenizer; runs on the loop for small bodies and on a worker thread for
large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.catalogue import Catalogue, ModelCard
from market.errors import InvalidRequest, Unavailable
from market.messages import Admitted
from market.types import Job, RequestId
from serve_app.json_body import decode_object
from serve_app.parameters import Call, Kind, read_call
from serve_app.ports import ModelsPort, ServedModelPort


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that could run: its card, its prompt and the room left for an answer."""

    call: Call
    card: ModelCard
    prompt_ids: tuple[int, ...]
    max_tokens_cap: int

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


def prepare(kind: Kind, body: bytes, catalogue: Catalogue, models: ModelsPort) -> Prepared:
    """Decode, validate and tokenise. Raises InvalidRequest, NotFound or Unavailable."""
    call = read_call(kind, decode_object(body))
    card = catalogue.get(call.model)
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
    return Prepared(call, card, prompt_ids, cap)


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
