"""The batch changes nothing: whatever the schedule, each answer is what it would be alone.

The oracle is mlx_lm's own single-stream generation. On a CPU the arithmetic of a row does not
depend on its neighbours, so greedy answers must be equal token for token. Schedules are drawn
by hypothesis and driven by hand through the engine's core, one turn at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.engines.choice import Choice
from actors.engines.mlx.core import EngineCore
from actors.engines.model_folder import read_folder
from market.types import Event, Job, ModelId, RequestId, Sampling
from tests.support.mlx_cores import make_core
from tests.tiny_model import EOS_IDS

MODEL = ModelId("test/tiny")
GREEDY = Sampling(temperature=0.0)
VOCAB = 360
ANSWER_TOKENS = 24
TURNS_MAX = 3_000
PROMPT_SIZES = (1, 2, 3, 9, 40, 90, 200)
LONG_PREFIX = 60

PROMPTS: list[tuple[int, ...]] = []
for _seed in range(12):
    _random = Random(_seed)
    _size = PROMPT_SIZES[_seed % len(PROMPT_SIZES)]
    PROMPTS.append(tuple(_random.randrange(3, VOCAB) for _ in range(_size)))
for _seed in range(4):  # conversations: each begins with the whole of a longer shared part
    PROMPTS.append(PROMPTS[6][: LONG_PREFIX + 20 * _seed] + PROMPTS[4][: 5 + _seed])

ANSWERS: dict[int, list[int]] = {}
"""By place in PROMPTS; the model is the same in every test."""


@pytest.fixture(scope="module")
def core(tiny_folder: Path) -> Iterator[EngineCore]:
    core = make_core(read_folder(tiny_folder), slots=8, budget_bytes=2**30)
    yield core
    core.close()


def run(core: EngineCore, arrivals: list[tuple[int, Job]], cancels: dict[int, str]) -> Said:
    """Submit each job at its turn, cancel at theirs, and run until nothing is left."""
    said = Said()
    waiting = sorted(arrivals, key=lambda pair: pair[0])
    for turn in range(TURNS_MAX):
        while waiting and waiting[0][0] <= turn:
            job = waiting.pop(0)[1]
            core.add([Choice(job, index, core.ready.vocabulary) for index in range(job.n)])
        if turn in cancels:
            core.cancel(RequestId(cancels[turn]))
        core.turn()
        said.add(core.take_events())
        if not waiting and not core.busy:
            return said
    raise AssertionError("the schedule did not end")


class Said:
    """All events of a run, by request and choice."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], list[Event]] = {}

    def add(self, events: list[Event]) -> None:
        for event in events:
            self.events.setdefault((event.request_id, event.index), []).append(event)

    def tokens(self, request_id: str, index: int = 0) -> list[int]:
        return [t for e in self.events.get((request_id, index), []) for t in e.token_ids]

    def ending(self, request_id: str, index: int = 0) -> str | None:
        finishes = [e.finish for e in self.events[(request_id, index)] if e.finish]
        assert len(finishes) == 1
        return finishes[0]


def alone(core: EngineCore, place: int) -> list[int]:
    """What single-stream generation answers to a prompt, the end token included."""
    if place not in ANSWERS:
        ANSWERS[place] = list(_single_stream(core.model, PROMPTS[place]))
    return ANSWERS[place]


def _single_stream(model: Any, prompt: tuple[int, ...]) -> Iterator[int]:
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    for token, _ in generate_step(mx.array(prompt), model, max_tokens=ANSWER_TOKENS):
        yield int(token)
        if token in EOS_IDS:
            return


def greedy(name: str, place: int, scope: str = "") -> Job:
    return Job(RequestId(name), MODEL, PROMPTS[place], ANSWER_TOKENS, GREEDY, cache_scope=scope)


def test_the_fixture_is_worth_comparing(core: EngineCore) -> None:
    """Answers wander over many tokens and end in two ways, or equality would prove nothing."""
    answers = [alone(core, place) for place in range(len(PROMPTS))]
    assert len({token for answer in answers for token in answer}) >= 50
    endings = Counter(answer[-1] in EOS_IDS for answer in answers)
    assert endings[True] >= 2
    assert endings[False] >= 2


SCHEDULES = st.lists(
    st.tuples(
        st.integers(0, 40),  # the turn it arrives
        st.integers(0, len(PROMPTS) - 1),
        st.sampled_from(("", "ada", "ben")),  # whose prefix cache
        st.one_of(st.none(), st.integers(1, 60)),  # the turn it is cancelled
    ),
    min_size=1,
    max_size=14,
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(schedule=SCHEDULES)
def test_any_schedule_gives_every_answer_as_if_alone(
    core: EngineCore, schedule: list[tuple[int, int, str, int | None]]
) -> None:
    """Arrivals, cancels and prefix hits change no token; a cancel only ends the answer early."""
    arrivals = [
        (turn, greedy(f"r{i}", place, scope)) for i, (turn, place, scope, _) in enumerate(schedule)
    ]
    cancels = {
        turn + stop: f"r{i}" for i, (turn, _, _, stop) in enumerate(schedule) if stop is not None
    }
    said = run(core, arrivals, cancels)
    for i, (_, place, _, _) in enumerate(schedule):
        tokens, wanted = said.tokens(f"r{i}"), alone(core, place)
        if said.ending(f"r{i}") == "cancelled":
            assert tokens == wanted[: len(tokens)]
        else:
            assert tokens == wanted
            assert said.ending(f"r{i}") == ("stop" if wanted[-1] in EOS_IDS else "length")
    assert not core.busy


def test_a_stored_prefix_is_used_and_changes_nothing(core: EngineCore) -> None:
    """The second turn of a conversation reads only what is new, and answers the same."""
    first = run(core, [(0, greedy("one", 6, "ada"))], {})
    assert first.tokens("one") == alone(core, 6)
    for place in (12, 13, 15):
        again = run(core, [(0, greedy("two", place, "ada"))], {})
        cached = again.events[("two", 0)][0].cached_tokens
        assert LONG_PREFIX <= cached < len(PROMPTS[place])
        assert again.tokens("two") == alone(core, place)


def test_asking_the_same_again_leaves_one_token_to_feed(core: EngineCore) -> None:
    """An exact hit reuses all but the last token of the prompt."""
    run(core, [(0, greedy("one", 5, "eve"))], {})
    again = run(core, [(0, greedy("two", 5, "eve"))], {})
    assert again.events[("two", 0)][0].cached_tokens == len(PROMPTS[5]) - 1
    assert again.tokens("two") == alone(core, 5)


def test_consumers_never_share_a_prefix(core: EngineCore) -> None:
    """What one scope stored is invisible to another and to no scope at all."""
    run(core, [(0, greedy("mine", 4, "carol"))], {})
    for scope in ("dan", ""):
        said = run(core, [(0, greedy("yours", 4, scope))], {})
        assert said.events[("yours", 0)][0].cached_tokens == 0


def test_a_seed_gives_the_same_text_in_any_batch(core: EngineCore) -> None:
    """A seeded choice depends on its seed, index and prompt, not on who runs beside it."""
    sampling = Sampling(temperature=1.3, top_p=0.95, top_k=200, seed=11)
    job = Job(RequestId("seeded"), MODEL, PROMPTS[3], ANSWER_TOKENS, sampling, n=2)
    quiet = run(core, [(0, job)], {})
    crowd = [(turn, greedy(f"g{turn}", turn % 8)) for turn in range(6)]
    noisy = Sampling(temperature=1.0)
    crowd += [(3, Job(RequestId("n"), MODEL, PROMPTS[4], ANSWER_TOKENS, noisy, n=2))]
    busy = run(core, [*crowd, (4, job)], {})
    for index in range(2):
        assert quiet.tokens("seeded", index) == busy.tokens("seeded", index)
    assert quiet.tokens("seeded", 0) != quiet.tokens("seeded", 1)
    for turn in range(6):
        assert busy.tokens(f"g{turn}") == alone(core, turn % 8)


def test_without_a_seed_two_runs_differ(core: EngineCore) -> None:
    """Fresh randomness: the same request twice says two things."""
    hot = Sampling(temperature=1.5)
    jobs = [(0, Job(RequestId(name), MODEL, PROMPTS[3], ANSWER_TOKENS, hot)) for name in "ab"]
    said = run(core, jobs, {})
    assert said.tokens("a") != said.tokens("b")


def test_top_k_of_one_and_tiny_top_p_are_greedy(core: EngineCore) -> None:
    """Filters that leave one candidate draw the likeliest whatever the temperature."""
    for name, sampling in (
        ("k", Sampling(temperature=2.0, top_k=1)),
        ("p", Sampling(temperature=2.0, top_p=1e-6)),
        ("m", Sampling(temperature=2.0, min_p=0.9999)),
    ):
        job = Job(RequestId(name), MODEL, PROMPTS[5], ANSWER_TOKENS, sampling)
        assert run(core, [(0, job)], {}).tokens(name) == alone(core, 5)


def test_a_strong_bias_forces_or_forbids_a_token(core: EngineCore) -> None:
    """logit_bias reaches the draw: +100 is always said, -100 never."""
    wanted = Sampling(temperature=0.0, logit_bias=((77, 100.0),))
    job = Job(RequestId("forced"), MODEL, PROMPTS[5], 5, wanted)
    assert run(core, [(0, job)], {}).tokens("forced") == [77] * 5
    first = alone(core, 5)[0]
    never = Sampling(temperature=0.0, logit_bias=((first, -100.0),))
    job = Job(RequestId("forbidden"), MODEL, PROMPTS[5], 5, never)
    assert first not in run(core, [(0, job)], {}).tokens("forbidden")


def test_a_fault_fails_only_the_newest_rows(core: EngineCore, monkeypatch: Any) -> None:
    """An exception in a step ends the rows that joined last; the others stay exact."""
    model_class = type(core.model)
    healthy = model_class.__call__

    def poisoned(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if VOCAB - 1 in inputs.tolist()[-1]:
            raise RuntimeError("injected")
        return healthy(self, inputs, *args, **kwargs)

    monkeypatch.setattr(model_class, "__call__", poisoned)
    seeded = Sampling(temperature=1.0, seed=5)
    steady = Job(RequestId("steady"), MODEL, PROMPTS[2], ANSWER_TOKENS, seeded)
    undisturbed = run(core, [(0, steady)], {}).tokens("steady")
    poison = Job(RequestId("poison"), MODEL, (*PROMPTS[3], VOCAB - 1, 9), 5, GREEDY, n=2)
    jobs = [(0, steady), (0, greedy("old", 7)), (1, greedy("older", 4, "ada")), (6, poison)]
    said = run(core, jobs, {})
    errors = [e for events in said.events.values() for e in events if e.error is not None]
    assert [(e.request_id, e.error.code) for e in errors if e.error] == [("poison", "engine")]
    assert said.tokens("old") == alone(core, 7)
    assert said.tokens("older") == alone(core, 4)
    assert said.tokens("steady") == undisturbed


def test_a_second_fault_in_a_row_ends_the_engine(tiny_folder: Path, monkeypatch: Any) -> None:
    """When a fresh batch fails too, the fault is the engine's and is raised."""
    core = make_core(read_folder(tiny_folder), slots=8, budget_bytes=2**30)

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("injected")

    monkeypatch.setattr(type(core.model), "__call__", broken)
    with pytest.raises(RuntimeError, match="injected"):
        run(core, [(0, greedy("a", 3)), (1, greedy("b", 4))], {})
    core.close()


def test_a_long_prompt_does_not_silence_the_others(core: EngineCore) -> None:
    """While somebody is being answered, no turn reads more prompt than the gap allows."""
    core.reading.prefill_tps = 400.0  # 60 tokens fit the gap, the least budget is 64
    long = Job(RequestId("long"), MODEL, PROMPTS[6] * 2, 4, GREEDY)
    core.add([Choice(greedy("talker", 7), 0, core.ready.vocabulary)])
    for _ in range(3):
        core.turn()
    core.take_events()
    core.add([Choice(long, 0, core.ready.vocabulary)])
    silent, turns = 0, 0
    while core.busy and turns < TURNS_MAX:
        core.reading.prefill_tps = 400.0
        core.turn()
        turns += 1
        events = core.take_events()
        if any(e.request_id == "long" for e in events):
            break
        silent += not any(e.request_id == "talker" for e in events)
    assert turns >= len(PROMPTS[6]) * 2 // 64
    assert silent == 0
    while core.busy:
        core.turn()
    core.take_events()


def test_caches_stay_within_their_bound(tiny_folder: Path) -> None:
    """Storing evicts, oldest first, and memory is returned when nothing runs."""
    bound = 300_000
    core = make_core(
        read_folder(tiny_folder), slots=4, budget_bytes=2**30, prefix_cache_bytes=bound
    )
    for round_number in range(8):
        jobs = [
            (i, greedy(f"r{round_number}-{i}", i, f"scope{i % 3}")) for i in range(len(PROMPTS))
        ]
        run(core, jobs, {})
        assert 0 < core.reading.cache_bytes <= bound
        assert core.reading.batch_bytes == 0
    core.close()


def test_admission_never_exceeds_the_budget(tiny_folder: Path) -> None:
    """With memory for few, rows wait their turn; all are answered exactly all the same."""
    facts = read_folder(tiny_folder)
    one_row = 2 * 256 * 512  # a block of 256 tokens at 512 bytes each, twice for the copy
    budget = int((facts.weight_bytes + 2.5 * one_row) / 0.75)
    core = make_core(facts, slots=8, budget_bytes=budget, prefix_cache_bytes=0)
    most = 0
    for i in range(6):
        core.add([Choice(greedy(f"r{i}", i), 0, core.ready.vocabulary)])
    said = Said()
    while core.busy:
        core.turn()
        said.add(core.take_events())
        most = max(most, core.reading.running)
        assert core.reading.batch_bytes + core.ready.plan.weight_bytes <= budget
    assert most == 2
    for i in range(6):
        assert said.tokens(f"r{i}") == alone(core, i)
    core.close()
