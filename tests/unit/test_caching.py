"""One body per epoch, made once, kept while none can be made, and never an invented one."""

from __future__ import annotations

import asyncio

import pytest

from market.errors import MarketError, Unavailable
from market.public.epochs import LAG_S, Epoch
from serve_app import caching
from serve_app.caching import GRACE_S, RETRY_S, STALE_S_MAX, Body, EachEpoch, matches
from serve_app.counters import Counters
from serve_app.metric_names import STALE_BODIES, labelled

PERIOD_S = 60
BEGIN_S = 1_800_000_000.0 + LAG_S


class Time:
    """A calendar and a stopwatch, both set by hand."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now_s(self) -> float:
        return BEGIN_S + self.passed_s

    def monotonic_s(self) -> float:
        return self.passed_s


class Store:
    """Makes figures, counts how often, and fails when told to."""

    def __init__(self) -> None:
        self.made: list[Epoch] = []
        self.error: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def make(self, epoch: Epoch) -> str:
        self.made.append(epoch)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return f"figures of {epoch.number}"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def kept(time: Time, store: Store, counters: Counters) -> EachEpoch[str]:
    return EachEpoch("thing", PERIOD_S, store.make, time, counters)


async def test_however_many_ask_figures_are_made_once(kept: EachEpoch[str], store: Store) -> None:
    """A hundred callers at once, and one more later, cause one making and get one body."""
    store.gate = asyncio.Event()
    asking = [asyncio.create_task(kept.get()) for _ in range(100)]
    await asyncio.sleep(0)
    store.gate.set()
    answers = [await one for one in asking] + [await kept.get()]

    assert len(store.made) == 1
    assert len({id(made) for made in answers}) == 1
    bodies = {id(made.body("", str.encode)) for made in answers}
    assert len(bodies) == 1


async def test_a_body_stays_for_its_epoch_and_changes_with_it(
    kept: EachEpoch[str], store: Store, time: Time
) -> None:
    """The same object until the last moment, another one after it."""
    first = await kept.get()
    time.passed_s = PERIOD_S - 0.001
    assert await kept.get() is first
    time.passed_s = PERIOD_S
    second = await kept.get()

    assert second.epoch.number == first.epoch.number + 1
    assert len(store.made) == 2


async def test_a_caller_that_leaves_takes_nothing_with_it(
    kept: EachEpoch[str], store: Store
) -> None:
    """Who asked first and is gone does not stop what others wait for."""
    store.gate = asyncio.Event()
    first, second = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()

    assert (await second).value.startswith("figures")
    assert len(store.made) == 1


@pytest.mark.parametrize(
    "error", [Unavailable("Down.", None, "x"), ValueError("a bug"), RuntimeError()]
)
async def test_a_failing_store_leaves_the_last_good_body(
    kept: EachEpoch[str], store: Store, time: Time, counters: Counters, error: Exception
) -> None:
    """Whatever goes wrong, the last figures are served for STALE_S_MAX, then 503."""
    first = await kept.get()
    store.error = error
    time.passed_s = PERIOD_S + 1.0
    assert await kept.get() is first
    time.passed_s = PERIOD_S + STALE_S_MAX
    assert await kept.get() is first
    assert first.epoch.age_s(time.now_s()) == PERIOD_S + STALE_S_MAX
    time.passed_s += 1.0
    with pytest.raises(Unavailable) as refused:
        await kept.get()

    assert refused.value.code == "statistics_unavailable"
    assert refused.value.retry_after_s
    assert "a bug" not in str(refused.value)
    assert counters.snapshot()[labelled(STALE_BODIES, name="thing")] == 3.0, "the refusal too"


async def test_old_figures_are_counted_by_whom_they_are_told_to(
    kept: EachEpoch[str], store: Store, time: Time, counters: Counters
) -> None:
    """Also where readers never make any: from a while after their lifetime, until there are new
    ones, over the refusals that follow.
    """

    def late() -> float:
        return counters.snapshot().get(labelled(STALE_BODIES, name="thing"), 0.0)

    await kept.get()
    for passed_s in (PERIOD_S, PERIOD_S + GRACE_S):
        time.passed_s = passed_s
        assert kept.latest() is not None
    assert late() == 0.0
    time.passed_s += 1.0
    assert kept.latest() is not None
    assert late() == 1.0
    store.error = Unavailable("Down.")
    time.passed_s = PERIOD_S + STALE_S_MAX + 1.0
    with pytest.raises(Unavailable):
        await kept.get()
    with pytest.raises(Unavailable):
        kept.latest()
    assert late() == 3.0


async def test_a_store_that_hangs_costs_one_reader_its_patience(
    kept: EachEpoch[str], store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others get the old figures at once, and the new ones once they have been made."""
    first = await kept.get()
    store.gate = asyncio.Event()
    time.passed_s = PERIOD_S + 1.0
    monkeypatch.setattr(caching, "PATIENCE_S", 0.01)
    assert await kept.get() is first
    monkeypatch.setattr(caching, "PATIENCE_S", 3_600.0)  # nobody is to wait for so long
    async with asyncio.timeout(10.0):  # else it would stand still here
        for _ in range(3):
            assert await kept.get() is first
    assert len(store.made) == 2
    store.gate.set()
    while await kept.get() is first:
        await asyncio.sleep(0)
    assert len(store.made) == 2


async def test_without_any_good_body_the_failure_is_the_answer(
    kept: EachEpoch[str], store: Store
) -> None:
    """503 at once, and figures as soon as they can be made."""
    store.error = Unavailable("Down.", None, "x", 7.0)
    with pytest.raises(Unavailable) as refused:
        await kept.get()

    assert refused.value.retry_after_s == 7.0


async def test_a_store_that_is_down_is_not_asked_by_everybody(
    kept: EachEpoch[str], store: Store, time: Time
) -> None:
    """After a failure nobody asks again within RETRY_S; then one does, and all is well."""
    store.error = Unavailable("Down.")
    for _ in range(20):
        with pytest.raises(MarketError):
            await kept.get()
    assert len(store.made) == 1
    store.error = None
    time.passed_s += RETRY_S
    assert (await kept.get()).value
    assert len(store.made) == 2


async def test_a_store_that_hangs_is_a_store_that_fails(
    kept: EachEpoch[str], store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can be given the last good body waits for PATIENCE_S; who cannot, for MAKE_S_MAX."""
    monkeypatch.setattr(caching, "PATIENCE_S", 0.01)
    monkeypatch.setattr(caching, "MAKE_S_MAX", 0.1)
    first = await kept.get()
    store.gate = asyncio.Event()
    time.passed_s = PERIOD_S
    assert await kept.get() is first
    time.passed_s = PERIOD_S + STALE_S_MAX + 1.0
    with pytest.raises(Unavailable):
        await kept.get()
    assert len(store.made) == 2


@pytest.mark.parametrize(("back_s", "again"), [(30.0, 0), (59.0, 0), (3_600.0, 1)])
async def test_a_clock_that_is_set_back_shows_no_older_figures(
    kept: EachEpoch[str], store: Store, time: Time, back_s: float, again: int
) -> None:
    """A little back, and what was made stays; an hour back, and it was the clock that lied."""
    time.passed_s = 7_200.0
    await kept.get()
    time.passed_s -= back_s
    await kept.get()

    assert len(store.made) == 1 + again


async def test_latest_never_makes_anything(kept: EachEpoch[str], store: Store, time: Time) -> None:
    """None before the first, the last good ones after it, the failure when they are too old."""
    assert kept.latest() is None
    assert not store.made
    made = await kept.get()
    assert kept.latest() is made
    store.error = Unavailable("Down.")
    time.passed_s = PERIOD_S + STALE_S_MAX + 1.0
    with pytest.raises(Unavailable):
        await kept.get()
    with pytest.raises(Unavailable):
        kept.latest()


def test_equal_bodies_have_equal_tags_and_others_have_others() -> None:
    """A tag is a quoted digest of the bytes."""
    assert Body.of(b"a") == Body.of(b"a")
    assert Body.of(b"a").etag != Body.of(b"b").etag
    assert Body.of(b"a").etag[0] == Body.of(b"a").etag[-1] == '"'


@pytest.mark.parametrize(
    ("header", "same"),
    [(None, False), ('"x"', True), ('W/"x"', True), ('"y", "x"', True), ("*", True),
     ('"y"', False), ("x", False), ("", False), ('"xx"', False)],
)  # fmt: skip
def test_a_tag_is_compared_as_conditional_requests_ask(header: str | None, same: bool) -> None:
    """Weakly, in lists, and with the star for any."""
    assert matches(header, '"x"') is same
