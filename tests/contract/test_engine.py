"""The laws of the Engine port, held by every implementation.

One suite runs on the MLX engine with a random model, on the echo engine with and without a
tokenizer, and on the simulated engine. What an engine says differs; how it says it must not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.errors import InvalidRequest, Unavailable
from market.types import RequestId, Sampling
from tests.support.engine_bench import SLOTS, WAITING, Bench, cut, job, many
from tests.tiny_model import EOS_IDS


async def test_every_choice_ends_exactly_once(bench: Bench) -> None:
    """Each index sends one finish, and nothing after it."""
    jobs = many(SLOTS + 3, n=1)
    jobs.append(job("pair", n=3))
    await bench.run(*jobs)
    for each in jobs:
        for index in range(each.n):
            finishes = [e.finish for e in bench.choice(each, index)]
            assert [f for f in finishes if f] == [finishes[-1]]
            assert finishes[-1] in ("stop", "length")


async def test_counts_are_cumulative_and_bounded(bench: Bench) -> None:
    """`count` is the number of token ids so far, never above `max_tokens`."""
    jobs = many(SLOTS + 2, max_tokens=9)
    await bench.run(*jobs)
    for each in jobs:
        seen = 0
        for event in bench.choice(each):
            seen += len(event.token_ids)
            assert event.count == seen
        assert seen <= 9
        if bench.choice(each)[-1].finish == "length":
            assert seen == 9


async def test_joined_text_is_the_decoded_tokens(bench: Bench) -> None:
    """The pieces join to what decoding all tokens at once gives."""
    jobs = many(SLOTS, max_tokens=40)
    await bench.run(*jobs)
    assert any(len(bench.text(each)) > 10 for each in jobs)
    for each in jobs:
        assert bench.text(each) == bench.decoded(bench.tokens(each))


async def test_a_stop_string_cuts_the_text_wherever_tokens_split_it(bench: Bench) -> None:
    """With a stop string the text ends before its first occurrence, with finish `stop`."""
    free = job("free", tuple(range(20, 60)), max_tokens=40)
    await bench.run(free)
    whole = bench.text(free)
    assert len(whole) > 12
    for place in (3, 6, 9):
        stops = (whole[place : place + 3], "never said")
        stopped = replace(free, request_id=RequestId(f"stop{place}"), stop=stops)
        await bench.run(stopped)
        assert bench.text(stopped) == cut(whole, stops)
        assert bench.choice(stopped)[-1].finish == "stop"
        assert len(bench.tokens(stopped)) <= len(bench.tokens(free))


async def test_a_stop_string_that_never_comes_withholds_nothing(bench: Bench) -> None:
    """Text held back as a possible stop arrives when the answer ends."""
    free = job("free", tuple(range(20, 60)), max_tokens=20)
    await bench.run(free)
    tail = bench.text(free)[-2:]
    held = replace(free, request_id=RequestId("held"), stop=(tail + "\0",))
    await bench.run(held)
    assert bench.text(held) == bench.text(free)
    assert bench.choice(held)[-1].finish == bench.choice(free)[-1].finish


async def test_cancel_ends_every_open_choice_and_leaves_the_others_exact(bench: Bench) -> None:
    """After cancel come at most the events of one step, then `cancelled` once per choice."""
    alone = job("alone", tuple(range(30, 50)), max_tokens=60)
    await bench.run(alone)
    other = replace(alone, request_id=RequestId("other"))
    doomed = job("doomed", tuple(range(60, 90)), max_tokens=400, n=2)
    bench.engine.submit(other)
    bench.engine.submit(doomed)
    await bench.until(lambda: len(bench.choice(doomed, 0)) >= 2)
    before = bench.steps
    bench.engine.cancel(doomed.request_id)
    await bench.until(lambda: bench.over(doomed))
    assert bench.steps - before <= 2
    for index in range(2):
        assert [e.finish for e in bench.choice(doomed, index) if e.finish] == ["cancelled"]
        assert bench.text(doomed, index) == bench.decoded(bench.tokens(doomed, index))
    await bench.until(lambda: bench.over(other))
    assert bench.tokens(other) == bench.tokens(alone)


async def test_a_waiting_job_can_be_cancelled(bench: Bench) -> None:
    """A job cancelled before its first token ends as `cancelled`, with nothing produced."""
    running = many(SLOTS, max_tokens=300)
    for each in running:
        bench.engine.submit(each)
    waiting = job("waiting")
    bench.engine.submit(waiting)
    bench.engine.cancel(waiting.request_id)
    await bench.until(lambda: bench.over(waiting))
    assert bench.tokens(waiting) == []
    assert bench.choice(waiting)[-1].finish == "cancelled"


async def test_cancelling_what_is_unknown_or_over_changes_nothing(bench: Bench) -> None:
    """Unknown ids are ignored: the job has ended."""
    first, second = job("first"), job("second")
    bench.engine.cancel(RequestId("nobody"))
    await bench.run(first)
    bench.engine.cancel(first.request_id)
    await bench.run(second)
    assert [e.finish for e in bench.choice(first) if e.finish] == [bench.choice(first)[-1].finish]
    assert bench.tokens(first) == bench.tokens(second)


BAD: dict[str, tuple[str, dict[str, object]]] = {
    "empty prompt": ("prompt", {"prompt_ids": ()}),
    "negative id": ("prompt", {"prompt_ids": (4, -1)}),
    "id out of vocabulary": ("prompt", {"prompt_ids": (4, 360)}),
    "id of another type": ("prompt", {"prompt_ids": (4, True)}),
    "prompt fills the context": ("prompt", {"prompt_ids": (5,) * 512}),
    "answer exceeds the context": ("max_tokens", {"max_tokens": 510}),
    "no tokens": ("max_tokens", {"max_tokens": 0}),
    "no choices": ("n", {"n": 0}),
    "too many choices": ("n", {"n": 9}),
    "too many alternatives": ("top_logprobs", {"top_logprobs": 21}),
    "empty stop": ("stop", {"stop": ("",)}),
    "five stops": ("stop", {"stop": ("a", "b", "c", "d", "e")}),
    "stop of another type": ("stop", {"stop": (1,)}),
    "hot": ("temperature", {"sampling": Sampling(temperature=2.5)}),
    "not a number": ("temperature", {"sampling": Sampling(temperature=float("nan"))}),
    "top_p of 0": ("top_p", {"sampling": Sampling(top_p=0.0)}),
    "top_k of the vocabulary": ("top_k", {"sampling": Sampling(top_k=360)}),
    "min_p above 1": ("min_p", {"sampling": Sampling(min_p=1.1)}),
    "penalty": ("frequency_penalty", {"sampling": Sampling(frequency_penalty=3.0)}),
    "zero repetition": ("repetition_penalty", {"sampling": Sampling(repetition_penalty=0.0)}),
    "bias out of vocabulary": ("logit_bias", {"sampling": Sampling(logit_bias=((360, 1.0),))}),
    "infinite bias": ("logit_bias", {"sampling": Sampling(logit_bias=((3, float("inf")),))}),
    "huge seed": ("seed", {"sampling": Sampling(seed=2**70)}),
}


async def test_a_poisoned_job_is_refused_by_name_and_harms_nobody(bench: Bench) -> None:
    """Each invalid value raises InvalidRequest naming its field; the others stay exact."""
    alone = job("alone", max_tokens=30)
    await bench.run(alone)
    other = replace(alone, request_id=RequestId("other"))
    bench.engine.submit(other)
    for name, (field, values) in BAD.items():
        with pytest.raises(InvalidRequest) as caught:
            bench.engine.submit(replace(job("bad"), **values))  # type: ignore[arg-type]
        assert caught.value.param == field, name
    await bench.until(lambda: bench.over(other))
    assert bench.tokens(other) == bench.tokens(alone)
    assert "bad" not in bench.said


async def test_the_queue_is_bounded(bench: Bench) -> None:
    """Beyond slots and waiting room, submit raises Unavailable and keeps nothing."""
    accepted = many(SLOTS + WAITING, max_tokens=3)
    for each in accepted:
        bench.engine.submit(each)
    with pytest.raises(Unavailable):
        bench.engine.submit(job("late"))
    await bench.until(lambda: all(bench.over(each) for each in accepted))
    await bench.run(job("late"))


async def test_logprobs_come_with_the_tokens_they_describe(bench: Bench) -> None:
    """Every token of the text has its log-probability and at most the asked alternatives."""
    asked = job("asked", max_tokens=8, top_logprobs=3)
    await bench.run(asked)
    described = [entry for event in bench.choice(asked) for entry in event.logprobs]
    said = [token for token in bench.tokens(asked) if token not in EOS_IDS]
    assert [entry.token_id for entry in described] == said
    for entry in described:
        assert entry.logprob <= 1e-6
        assert 1 <= len(entry.top) <= 3
        assert entry.top[0][0] == entry.token_id  # greedy: the likeliest was taken


async def test_stats_count_what_was_done(bench: Bench) -> None:
    """Counters equal what the events said, and idle engines run nothing."""
    jobs = many(SLOTS + 1, max_tokens=7)
    await bench.run(*jobs)
    stats = bench.engine.stats()
    assert stats.completion_tokens == sum(len(bench.tokens(each)) for each in jobs)
    assert stats.prompt_tokens == sum(len(each.prompt_ids) for each in jobs)
    assert (stats.running, stats.waiting, stats.slots) == (0, 0, SLOTS)
    assert bench.engine.healthy()


async def test_closing_cancels_what_runs_and_can_be_repeated(bench: Bench) -> None:
    """Close ends every open choice, refuses new work and is idempotent."""
    running = many(SLOTS + 2, max_tokens=400)
    for each in running:
        bench.engine.submit(each)
    await bench.until(lambda: bool(bench.choice(running[0])))
    await bench.engine.close()
    await bench.engine.close()
    for each in running:
        finishes = [e.finish for e in bench.choice(each) if e.finish]
        assert len(finishes) == 1
        assert finishes[0] in ("cancelled", "stop")
    assert not bench.engine.healthy()
    with pytest.raises(Unavailable):
        bench.engine.submit(job("after"))
