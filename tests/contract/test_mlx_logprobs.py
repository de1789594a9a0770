"""A model that computes in 16 bits: what its log-probabilities add up to, and who has none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import actors.demo
from actors.engines.choice import Choice
from actors.engines.mlx.core import EngineCore
from actors.engines.mlx.runtime import import_mlx, load_slices
from actors.engines.model_folder import read_folder
from market.errors import InvalidRequest
from market.types import Event, Job, ModelId, RequestId, Sampling
from tests.support.mlx_cores import finished, make_core

FOLDER = Path(actors.demo.__path__[0]) / "model"
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def core() -> Iterator[EngineCore]:
    core = make_core(read_folder(FOLDER), slots=4, budget_bytes=2**30)
    yield core
    core.close()


def run(core: EngineCore, top: int | None, sampling: Sampling = GREEDY) -> list[Event]:
    job = Job(RequestId("r"), ModelId("m/m"), (40, 60, 80), 6, sampling, top_logprobs=top)
    core.add([Choice(job, 0, core.ready.vocabulary)])
    events: list[Event] = []
    while not events or events[-1].finish is None:
        core.turn()
        events.extend(core.take_events())
    return events


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_chances_add_up_to_one(core: EngineCore, penalty: float) -> None:
    """Over the whole vocabulary the probabilities sum to 1, penalties or not."""
    sampling = Sampling(temperature=0.0, frequency_penalty=penalty)
    for event in run(core, core.ready.vocab_size, sampling):
        for entry in event.logprobs:
            assert abs(math.fsum(math.exp(value) for _, _, value in entry.top) - 1) < 1e-3
            assert entry.logprob <= 0


def test_values_are_finer_than_the_weights(core: EngineCore) -> None:
    """They are normalised in 32 bits: not every value is one that 16 bits can hold."""
    values = [v for e in run(core, 20) for entry in e.logprobs for _, _, v in entry.top]
    assert any(math.frexp(value)[0] * 2**8 % 1 for value in values)


def test_the_end_token_has_no_entry(core: EngineCore) -> None:
    """It has no text, so it is counted and not described."""
    end = 2
    events = run(core, 3, Sampling(temperature=0.0, logit_bias=((end, 100.0),)))
    assert [event.token_ids for event in events] == [(end,)]
    assert events[0].finish == "stop"
    assert events[0].logprobs == ()


def test_nobody_who_did_not_ask_gets_any(core: EngineCore) -> None:
    """Without the request no entry is made."""
    assert all(event.logprobs == () for event in run(core, None))


def test_a_model_that_does_not_load_is_told_in_whole_sentences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loader's own full stop is not followed by another."""
    import_mlx()
    import mlx_lm.utils

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Received 3 parameters not in model.")

    monkeypatch.setattr(mlx_lm.utils, "load_model", refuse)
    with pytest.raises(InvalidRequest, match=r"not in model\. Use") as caught:
        finished(load_slices(read_folder(FOLDER)))
    assert ".." not in caught.value.message
