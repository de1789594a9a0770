"""Simulated Macs behave as Macs do: one GPU, one disk, one memory, and the same again each time.

On a virtual clock, so that times are exact and none of them is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from actors.engines.factory import DEMO_FOLDER
from actors.engines.paced import CATCH_UP_S_MAX
from actors.engines.simulated import SimulatedEngine, SimulatedMac
from actors.engines.text import WordVocabulary
from market.catalogue import Catalogue
from market.hardware import chip_named, load_bytes_per_s, profile_of, step_ms, warm_ms
from market.policy.prefixes import BLOCK_TOKENS
from market.types import EngineStats, Job, ModelFacts, ModelId, RequestId
from tests.support.engine_bench import Bench
from tests.support.virtual_time import VirtualLoop, now_s, run_virtually

SMALL, LARGE = ModelId("llama-3.3-8b"), ModelId("qwen3.5-27b")
LONG_PROMPT = tuple(range(100, 100 + 10 * BLOCK_TOKENS + 5))
SHARED = 10 * BLOCK_TOKENS
JITTER = 0.2  # of a mean of many steps: far more than five standard deviations


async def loaded(model: ModelId, mac: SimulatedMac) -> Bench:
    """An engine of this model on this Mac, and what it says."""
    bench = Bench(SimulatedEngine(model, mac=mac, slots=4), WordVocabulary())
    await bench.engine.load(bench.sink)
    return bench


def job(name: str, model: ModelId, **fields: object) -> Job:
    return replace(Job(RequestId(name), model, LONG_PROMPT, 20), **fields)  # type: ignore[arg-type]


async def seconds(work: Awaitable[object]) -> float:
    began_s = now_s()
    await work
    return now_s() - began_s


@pytest.mark.parametrize("chip", ["M2", "M4 Max", "M5"])
def test_loading_takes_what_the_disk_takes_and_a_warm_up(chip: str) -> None:
    """Bytes over the disk's rate, then the first passes over the model."""

    async def load() -> float:
        return await seconds(loaded(SMALL, SimulatedMac(chip)))

    here, profile = chip_named(chip), profile_of(SMALL)
    reading_s = profile.weight_bytes / load_bytes_per_s(here)
    assert run_virtually(load()) == pytest.approx(
        reading_s + warm_ms(here, profile) / 1e3, rel=JITTER
    )


@pytest.mark.parametrize("running", [1, 4])
def test_the_speed_it_reports_is_that_of_the_batch_that_runs(running: int) -> None:
    """The router compares it with its table for as many sequences: of an honest Mac they agree."""

    async def read() -> EngineStats:
        bench = await loaded(LARGE, SimulatedMac())
        assert bench.engine.stats().decode_tps == 0  # not known yet
        jobs = [job(f"r{number}", LARGE, max_tokens=60) for number in range(running)]
        for each in jobs:
            bench.engine.submit(each)
        await bench.until(lambda: all(len(bench.choice(each)) > 30 for each in jobs))
        return bench.engine.stats()

    stats, profile = run_virtually(read()), profile_of(LARGE)
    assert stats.running == running
    tabled_ms = step_ms(chip_named("M4 Max"), profile, running, len(LONG_PROMPT) + 30)
    assert 1e3 * running / stats.decode_tps == pytest.approx(tabled_ms, rel=JITTER)


def test_steps_of_two_models_never_overlap() -> None:
    """Two models of one Mac take the sum of their times; on two Macs the longer of them."""

    async def both(one: SimulatedMac, other: SimulatedMac) -> float:
        small, large = await loaded(SMALL, one), await loaded(LARGE, other)
        return await seconds(asyncio.gather(small.run(job("s", SMALL)), large.run(job("l", LARGE))))

    async def alone(model: ModelId) -> float:
        bench = await loaded(model, SimulatedMac())
        return await seconds(bench.run(job("r", model)))

    small_s, large_s = run_virtually(alone(SMALL)), run_virtually(alone(LARGE))
    mac = SimulatedMac()
    assert run_virtually(both(mac, mac)) == pytest.approx(small_s + large_s)
    assert run_virtually(both(SimulatedMac(), SimulatedMac())) == pytest.approx(large_s)


def test_models_take_turns() -> None:
    """While both have work, neither gets two steps in a row."""

    async def turns() -> list[str]:
        mac = SimulatedMac()
        order: list[str] = []
        benches = [await loaded(SMALL, mac), await loaded(LARGE, mac)]
        for bench in benches:
            sink = bench.sink

            def noted(events: object, sink: Callable[[object], None] = sink) -> None:
                order.append(next(iter(events)).request_id)  # type: ignore[call-overload]
                sink(events)

            bench.engine._sink = noted  # type: ignore[attr-defined]
        short = {"prompt_ids": (5, 6, 7), "max_tokens": 10}
        await asyncio.gather(
            benches[0].run(job("s", SMALL, **short)), benches[1].run(job("l", LARGE, **short))
        )
        return order

    order = run_virtually(turns())
    assert order in (["s", "l"] * 10, ["l", "s"] * 10)


def test_a_load_leaves_the_others_their_answers() -> None:
    """While one model comes from the disk another one goes on answering, no slower."""

    async def beside(load: bool) -> float:
        mac = SimulatedMac("M4")
        bench = await loaded(SMALL, mac)
        loading = asyncio.ensure_future(loaded(LARGE, mac)) if load else None
        took_s = await seconds(bench.run(job("r", SMALL)))
        if loading is not None:
            assert not loading.done()
            await loading
        return took_s

    assert run_virtually(beside(load=True)) == run_virtually(beside(load=False))


def test_what_a_consumer_had_read_need_not_be_read_again() -> None:
    """Whole blocks of a prompt come from the cache, shorten the reading and are reported;
    another consumer, another model and an unloaded one have nothing of it.
    """

    async def lives() -> None:
        mac = SimulatedMac()
        bench, other = await loaded(SMALL, mac), await loaded(LARGE, mac)

        async def first_token_s(bench: Bench, name: str, scope: str) -> tuple[float, int]:
            asked = job(name, bench.engine._model, cache_scope=scope, max_tokens=1)  # type: ignore[attr-defined]
            took_s = await seconds(bench.run(asked))
            return took_s, bench.choice(asked)[0].cached_tokens

        cold_s, cached = await first_token_s(bench, "cold", "ada")
        assert cached == 0
        warm_s, cached = await first_token_s(bench, "warm", "ada")
        assert cached == SHARED
        assert warm_s < cold_s / 3
        assert (await first_token_s(bench, "ben", "ben"))[1] == 0
        assert (await first_token_s(bench, "none", ""))[1] == 0
        assert (await first_token_s(other, "large", "ada"))[1] == 0
        stats = bench.engine.stats()
        assert stats.cached_tokens == SHARED
        blocks = 2 * SHARED  # of ada and ben
        assert stats.cache_bytes == blocks * profile_of(SMALL).kv_bytes_per_token
        await bench.engine.close()
        bench = await loaded(SMALL, mac)
        assert (await first_token_s(bench, "again", "ada"))[1] == 0

    run_virtually(lives())


def test_a_prompt_that_is_known_to_its_end_is_still_read_for_one_token() -> None:
    """The last token is always fed, and what is reported is less than the prompt."""

    async def lives() -> None:
        bench = await loaded(SMALL, SimulatedMac())
        whole = LONG_PROMPT[:SHARED]
        for name, cached in (("a", 0), ("b", SHARED - 1)):
            asked = job(name, SMALL, prompt_ids=whole, cache_scope="ada")
            await bench.run(asked)
            assert bench.choice(asked)[0].cached_tokens == cached

    run_virtually(lives())


def test_the_memory_for_prefixes_is_bounded() -> None:
    """Sequences beyond an eighth of the memory push the oldest ones out."""

    async def lives() -> int:
        mac = SimulatedMac("M1", 8)
        bench = await loaded(SMALL, mac)
        most = 0
        for number in range(20):
            prompt = tuple(range(number, number + 1000))
            await bench.run(job(f"r{number}", SMALL, prompt_ids=prompt, cache_scope="ada"))
            most = max(most, bench.engine.stats().cache_bytes)
        assert most <= mac.memory_bytes / 8
        last = job("last", SMALL, prompt_ids=tuple(range(1000)), cache_scope="ada")
        await bench.run(last)
        return bench.choice(last)[0].cached_tokens

    assert run_virtually(lives()) == 0


def times(seed: int) -> list[float]:
    """When each token of three jobs came."""

    async def lives() -> list[float]:
        bench = await loaded(SMALL, SimulatedMac(seed=seed))
        seen: list[float] = []
        sink = bench.sink

        def noted(events: object) -> None:
            seen.append(now_s())
            sink(events)

        bench.engine._sink = noted  # type: ignore[attr-defined]
        await bench.run(*(job(f"r{i}", SMALL, cache_scope="ada") for i in range(3)))
        return seen

    return run_virtually(lives())


def test_equal_seeds_give_equal_times() -> None:
    """To the last digit; another seed gives others."""
    assert times(1) == times(1) != times(2)


def test_an_idle_engine_asks_nothing_of_the_event_loop() -> None:
    """A hundred simulated Macs that wait for work cost nothing: no timer runs for them."""

    async def lives() -> int:
        benches = [await loaded(SMALL, SimulatedMac(seed=seed)) for seed in range(100)]
        await benches[0].run(job("r", SMALL))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.scheduled

    assert run_virtually(lives()) == 0


def test_a_model_of_the_catalogue_needs_no_folder() -> None:
    """It speaks the demo model's tokens with its own context; its digest is its own."""

    async def facts_of(model: ModelId) -> ModelFacts:
        card = Catalogue().get(model)
        engine = SimulatedEngine(model, mac=SimulatedMac(), folder=DEMO_FOLDER, card=card)
        facts = await engine.load(lambda _: None)
        await engine.close()
        return facts

    small, large = run_virtually(facts_of(SMALL)), run_virtually(facts_of(LARGE))
    for facts in (small, large):
        assert facts.context_tokens == Catalogue().get(facts.model).context_tokens > 100_000
        assert facts.quantization == "4bit"
        assert facts.weight_bytes == profile_of(facts.model).weight_bytes
    assert small.vocab_size == large.vocab_size
    assert small.digest != large.digest


class LateLoop(VirtualLoop):
    """A machine whose timers are all late, and that stands still once."""

    late_s = 0.004
    stands_at_s = float("inf")
    stands_s = 0.0

    def _run_once(self) -> None:
        before_s = self._now_s
        super()._run_once()
        if self._now_s > before_s:
            self._now_s += self.late_s
        if self._now_s >= self.stands_at_s:
            self._now_s += self.stands_s
            self.stands_at_s = float("inf")


def _answer_s(loop_factory: Callable[[], VirtualLoop], *, idle_s: float = 60.0) -> float:
    """How long four hundred tokens take of a Mac that was idle for so long before."""

    async def story() -> float:
        mac = SimulatedMac("M4 Max", seed=5)
        bench = await loaded(SMALL, mac)
        await asyncio.sleep(idle_s)
        asked = job("r", SMALL, max_tokens=400)
        return await seconds(bench.run(asked))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(story())


def test_timers_that_are_late_do_not_make_a_mac_slower() -> None:
    """Four hundred steps take as long as their lengths say, however late each timer was."""
    assert _answer_s(LateLoop) == pytest.approx(_answer_s(VirtualLoop), abs=0.02)


def test_a_mac_that_was_idle_answers_no_faster_than_one_that_was_not() -> None:
    """Time in which there was nothing to do is not lateness, and is never made good."""
    assert _answer_s(VirtualLoop) == pytest.approx(_answer_s(VirtualLoop, idle_s=0.0), abs=1e-6)


def test_a_machine_that_stood_still_is_not_made_up_for() -> None:
    """After a nap of ten seconds a Mac goes on at its own speed: at most a quarter of a second is
    made good.
    """

    def napping() -> LateLoop:
        loop = LateLoop()
        loop.stands_at_s, loop.stands_s = loop._now_s + 62.0, 10.0
        return loop

    took_s = [_answer_s(factory) for factory in (napping, VirtualLoop)]
    assert took_s[0] - took_s[1] == pytest.approx(10.0 - CATCH_UP_S_MAX, abs=0.05)
