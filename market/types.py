"""Ids and the records that cross every room: a job, its events, a Mac and its load.

Frozen, slotted, picklable. Nothing here knows Ray, HTTP, SQL or MLX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType

AccountId = NewType("AccountId", str)  # acct_…  private
KeyId = NewType("KeyId", str)  # key_…   private, names an API key without being one
MachineId = NewType("MachineId", str)  # mac_…   private, stable across registrations
ProviderId = NewType("ProviderId", str)  # prv_…   the public face of a machine
RequestId = NewType("RequestId", str)  # req_…   the ledger's id of one request
GatewayId = NewType("GatewayId", str)  # gw_…    one gateway process, never reused
ModelId = NewType("ModelId", str)  # "coster/demo"; may contain slashes

FinishReason = Literal["stop", "length", "cancelled", "error"]
RequestClass = Literal["interactive", "batch"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. `temperature == 0` is greedy.

    `top_k == 0`, `top_p == 1`, `min_p == 0` and penalties of 0 switch each rule off.
    `seed is None` draws fresh randomness; a seed reproduces the text in any batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One request as an engine sees it: token ids in, at most `max_tokens` out per choice.

    `cache_scope` names whose prefix cache may be read and written: never two consumers.
    `top_logprobs` is None for no log-probabilities, else 0..20 alternatives per token.

    `said` are the tokens of its only choice that another Mac has already delivered: they are
    read like the prompt and the answer goes on after them. `max_tokens` and every count include
    them; events carry only what is new.
    """

    request_id: RequestId
    model: ModelId
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    n: int = 1
    top_logprobs: int | None = None
    cache_scope: str = ""
    said: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one emitted token and of the likeliest alternatives."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """What one choice of one job produced in one engine step, or how it ended.

    `count` is cumulative: completion tokens of this choice so far, these included. The
    end-of-sequence token is a token: it is counted and carries no text and no
    log-probability. Text withheld as
    a possible stop string arrives later or never; its tokens are counted when produced.
    A job of n choices ends when each index has sent a `finish`, or with the first event
    whose `error` is set. After that no event of the job follows.
    """

    request_id: RequestId
    index: int
    token_ids: tuple[int, ...]
    text: str
    count: int
    finish: FinishReason | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    error: JobFailure | None = None


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job ended without an answer.

    `code`: `rejected` (no room now), `invalid` (this job can run nowhere), `engine`
    (fault while running), `draining`, `lost` (the Mac or the wire is gone). `invalid`
    must not be retried on another Mac; every other code may be, before the first token.
    `param` names the field that makes a job invalid, where one does.
    """

    code: Literal["rejected", "invalid", "engine", "draining", "lost"]
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. cached ⊆ prompt, reasoning ⊆ completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Hardware:
    """One Mac's hardware as routing and the public statistics see it."""

    chip: str  # "M4 Max": a name of market.hardware.CHIPS
    memory_gb: int
    gpu_cores: int
    cpu_cores: int
    bandwidth_gbs: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as loaded by one engine. `digest` identifies weights and tokenizer."""

    model: ModelId
    digest: str
    context_tokens: int
    vocab_size: int
    weight_bytes: int
    kv_bytes_per_token: int
    quantization: str


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model needs, known before it is loaded: from its config alone, to the byte.

    `weight_bytes` are all weights, `kv_bytes_per_token` and `state_bytes` are of one sequence.
    """

    model: ModelId
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int
    context_tokens: int
    quantization: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A live reading of one engine; counters are since its start."""

    slots: int  # sequences that may decode at once
    running: int  # sequences decoding or prefilling
    waiting: int  # sequences accepted, not started
    memory_bytes_used: int
    memory_bytes_budget: int
    decode_tps: float  # recent tokens/s over the whole batch; 0 when unknown
    prefill_tps: float
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cache_bytes: int
    cancelled: int
    failed: int
