"""The gateway, its API description and the engines agree on what a request may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from actors.engines.checks import check_job
from market import sampling_bounds as bounds
from market.errors import InvalidRequest
from market.types import Job, ModelId, RequestId
from serve_app.openapi_inference import inference_schemas
from serve_app.parameters import Call, read_call

BODY: Mapping[str, Any] = {"model": "m/m", "prompt": "hi"}
NUMBERS = {
    "temperature": bounds.TEMPERATURE,
    "top_p": bounds.TOP_P,
    "min_p": bounds.MIN_P,
    "frequency_penalty": bounds.FREQUENCY_PENALTY,
    "presence_penalty": bounds.PRESENCE_PENALTY,
    "repetition_penalty": bounds.REPETITION_PENALTY,
}
EDGES: dict[str, Mapping[str, Any]] = {
    f"{name} of {edge:g}": {name: edge}
    for name, limits in NUMBERS.items()
    for edge in (limits.low, limits.high)
} | {
    "most biases": {"logit_bias": {str(i): 100 for i in range(bounds.LOGIT_BIASES_MAX)}},
    "lowest bias": {"logit_bias": {"5": -100}},
    "lowest seed": {"seed": bounds.SEED_MIN},
    "highest seed": {"seed": bounds.SEED_MAX},
    "most choices": {"n": bounds.CHOICES_MAX},
    "most stops": {"stop": ["x" * bounds.STOP_CHARS_MAX] * bounds.STOPS_MAX},
    "most alternatives": {"logprobs": bounds.COMPLETION_TOP_LOGPROBS_MAX},
    "top_k off": {"top_k": -1},
}


def engine_takes(call: Call) -> None:
    job = Job(
        RequestId("r"), ModelId("m/m"), (1,), 5, call.sampling, call.stop, call.n, call.top_logprobs
    )
    check_job(job, vocab_size=2_000, context_tokens=100)


@pytest.mark.parametrize("name", EDGES)
def test_what_the_gateway_takes_an_engine_takes(name: str) -> None:
    """At every edge of every bound, a body that is read makes a job that is run."""
    engine_takes(read_call("completion", {**BODY, **EDGES[name]}))


@pytest.mark.parametrize("name", NUMBERS)
def test_the_api_description_states_the_bounds_that_are_enforced(name: str) -> None:
    """Just outside the documented range both refuse the field by name."""
    schema = inference_schemas()["CompletionBody"]["properties"][name]
    limits = NUMBERS[name]
    assert (schema["minimum"], schema["maximum"]) == (limits.low, limits.high)
    for outside in (limits.low - 0.005, limits.high + 0.005):
        with pytest.raises(InvalidRequest) as caught:
            read_call("completion", {**BODY, name: outside})
        assert caught.value.param == name


def test_the_number_of_biases_is_bounded_and_documented() -> None:
    """One more than the description allows is refused."""
    schema = inference_schemas()["ChatCompletionBody"]["properties"]["logit_bias"]
    assert schema["maxProperties"] == bounds.LOGIT_BIASES_MAX >= 300
    biases = {str(i): 1 for i in range(bounds.LOGIT_BIASES_MAX + 1)}
    with pytest.raises(InvalidRequest, match="at most"):
        read_call("completion", {**BODY, "logit_bias": biases})
