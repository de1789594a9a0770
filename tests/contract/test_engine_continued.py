"""An answer that another Mac began goes on as if nothing had happened, in every engine.

The client has exactly the text that came of the first tokens. So for every place where a Mac can
be lost, what it had sent and what the next one sends must join to the unbroken answer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from market.errors import InvalidRequest
from market.types import Event, Job, RequestId, Sampling
from tests.support.engine_bench import GREEDY, SLOTS, Bench, job, running
from tests.tiny_model import ARCHITECTURES, CONTEXT_TOKENS, EOS_IDS, build_tiny_model

SEEDED = Sampling(temperature=1.2, top_p=0.97, seed=7)
PENALISED = Sampling(temperature=0.0, frequency_penalty=0.7, presence_penalty=0.4)
REPEATED = Sampling(temperature=0.9, seed=-3, repetition_penalty=1.3, min_p=0.01)
SAMPLINGS = (GREEDY, SEEDED, PENALISED, REPEATED)


@pytest.fixture
def prompt(tiny_folder: object) -> tuple[int, ...]:
    """Words of several scripts, whose characters are several tokens each."""
    tokenizer = Tokenizer.from_file(f"{tiny_folder}/tokenizer.json")
    return tuple(tokenizer.encode("Größe 北海 🍐 ✗").ids)


def went_on(whole: Job, tokens: list[int], scope: str = "") -> Job:
    """The job that another Mac gets after these tokens."""
    name = RequestId(f"{whole.request_id}+{len(tokens)}{scope}")
    return replace(whole, request_id=name, said=tuple(tokens), cache_scope=scope)


async def check_every_cut(bench: Bench, whole: Job, scope: str = "") -> list[Event]:
    """Run it unbroken, then once from each place; returns the unbroken run's events."""
    await bench.run(whole)
    events, tokens = bench.choice(whole), bench.tokens(whole)
    cuts = [went_on(whole, tokens[:k], scope) for k in range(1, len(tokens))]
    for start in range(0, len(cuts), SLOTS):
        await bench.run(*cuts[start : start + SLOTS])
    for k, continued in enumerate(cuts, start=1):
        sent = "".join(event.text for event in events[:k])
        rest = bench.choice(continued)
        assert tokens[:k] + bench.tokens(continued) == tokens
        assert sent + bench.text(continued) == bench.text(whole)
        assert rest[-1].finish == events[-1].finish
        assert [event.count for event in rest] == list(range(k + 1, len(tokens) + 1))
        assert all(event.cached_tokens <= len(whole.prompt_ids) for event in rest)
    return events


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded", "penalised", "repeated"])
async def test_every_cut_joins_to_the_unbroken_answer(
    bench: Bench, prompt: tuple[int, ...], sampling: Sampling
) -> None:
    """For each number of tokens delivered: same tokens, text, finish and cumulative counts."""
    whole = job("whole", prompt, max_tokens=20, sampling=sampling)
    events = await check_every_cut(bench, whole)
    assert len(events) > 4
    if bench.byte_level:  # some cuts fell inside a character, or the law says little
        assert any(not event.text for event in events)


async def test_a_stop_string_across_the_cut_still_stops(
    bench: Bench, prompt: tuple[int, ...]
) -> None:
    """Half of a stop string said by each Mac is a stop string, and withheld text is not lost."""
    free = job("free", prompt, max_tokens=20)
    await bench.run(free)
    text = bench.text(free)
    assert len(text) > 8
    for number, stops in enumerate(((text[-5:-1],), (text[3:7], "never"), (text[-3:] + "\0",))):
        whole = replace(free, request_id=RequestId(f"stop{number}"), stop=stops)
        events = await check_every_cut(bench, whole)
        assert "".join(event.text for event in events) in (text, text[: text.find(stops[0])])


async def test_prefixes_are_found_over_prompt_and_answer(
    bench: Bench, prompt: tuple[int, ...]
) -> None:
    """Caches of this Mac shorten the reading, change nothing, and never count as more prompt."""
    whole = job("whole", prompt * 3, max_tokens=12, cache_scope="ada")
    await check_every_cut(bench, whole, scope="ada")


BAD: dict[str, dict[str, object]] = {
    "several choices": {"n": 2, "said": (5,)},
    "log-probabilities": {"top_logprobs": 1, "said": (5,)},
    "nothing left to say": {"said": (5,) * 12},
    "id out of vocabulary": {"said": (5, 360)},
    "id of another type": {"said": (5, "x")},
    "over already": {},
}


@pytest.mark.parametrize("name", sorted(BAD))
async def test_what_cannot_go_on_is_refused_by_name(bench: Bench, name: str) -> None:
    """A continuation that no Mac can give exactly is refused before it starts."""
    token = next(i for i in range(3, 360) if len(bench.decoded([i]).strip()) > 1)
    values = BAD[name] or {"stop": (bench.decoded([token]),), "said": (token,)}
    with pytest.raises(InvalidRequest) as caught:
        bench.engine.submit(replace(job("bad"), **values))  # type: ignore[arg-type]
    assert caught.value.param == "said"
    await bench.run(job("good"))
    assert "bad" not in bench.said


async def test_said_tokens_count_towards_the_context_once(bench: Bench) -> None:
    """`max_tokens` includes what was said: a continuation that fits to the token is taken."""
    said = tuple(range(40, 60))
    full = job("full", tuple(range(30, 130)), max_tokens=CONTEXT_TOKENS - 100, said=said)
    with pytest.raises(InvalidRequest) as caught:
        bench.engine.submit(replace(full, max_tokens=full.max_tokens + 1))
    assert caught.value.param == "max_tokens"
    last = replace(full, max_tokens=len(said) + 1)
    await bench.run(last)
    assert [event.count for event in bench.choice(last)] == [len(said) + 1]


async def test_only_new_tokens_are_counted_as_said_here(bench: Bench) -> None:
    """An engine's own counters are what it did: the prompt once, and the tokens it drew."""
    await bench.run(job("rest", max_tokens=9, said=(41, 42, 43, 44, 45)))
    stats = bench.engine.stats()
    assert stats.completion_tokens == len(bench.said["rest"])
    assert stats.prompt_tokens == 3


async def test_a_model_does_not_go_on_after_its_end_token(tiny_folder: Path) -> None:
    """What it said after that would be nobody's answer."""
    async with running("mlx", tiny_folder) as bench:
        with pytest.raises(InvalidRequest) as caught:
            bench.engine.submit(job("ended", said=(40, EOS_IDS[0])))
    assert caught.value.param == "said"


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"qwen3"}))
async def test_every_kind_of_cache_goes_on_alike(architecture: str, tmp_path: Path) -> None:
    """Windows, recurrent layers and mixtures read what was said as if they had said it."""
    folder = build_tiny_model(tmp_path, architecture=architecture)
    seen: set[int] = set()
    async with running("mlx", folder) as bench:
        for name, prompt in (("long", tuple(range(20, 90))), ("short", (50, 6, 70))):
            whole = job(name, prompt, max_tokens=40)
            await bench.run(whole)
            tokens = bench.tokens(whole)
            seen.update(tokens)
            for k in range(1, len(tokens), 7):
                continued = went_on(whole, tokens[:k])
                await bench.run(continued)
                assert tokens[:k] + bench.tokens(continued) == tokens
    assert len(seen) > 5  # who repeats one token for ever goes on like anybody
