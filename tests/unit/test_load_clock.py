"""Laws of the load generator's clock: it waits for nobody, and hides nothing that was late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coster.load import drive as driving
from coster.load.drive import Drive
from coster.load.ear import Ear
from market.types import ModelId
from simulator.records import Arrival, Ended
from simulator.workloads.given import Given
from tests.support.virtual_time import VirtualLoop, run_virtually

MODEL = ModelId("coster/demo")


def arrival(number: int = 0, *, prompt: int = 100, at_s: float | None = None) -> Arrival:
    return Arrival(number, float(number) if at_s is None else at_s, "c", MODEL, prompt, 7, 7)


class Market:
    """Answers each request after as long as it is told to, and writes down when it came."""

    def __init__(self, takes_s: Callable[[Arrival], float]) -> None:
        self.takes_s = takes_s
        self.came_s: dict[int, float] = {}

    async def ask(self, ended: Ended, body: bytes, due_s: float, ear: Ear) -> None:
        loop = asyncio.get_running_loop()
        self.came_s[ended.arrival.number] = loop.time() - (due_s - ended.arrival.at_s)
        await asyncio.sleep(self.takes_s(ended.arrival))
        ended.status, ended.said_tokens = "ok", ended.arrival.output_tokens
        ear.usage = {"prompt_tokens": ended.arrival.prompt_tokens}
        ended.e2e_s = loop.time() - due_s

    def open(self, ended: Ended, ear: Ear, due_s: float) -> None:
        ended.status = "open"


class Texts:
    """Prompts that take a while to be thought of: a generator that cannot keep up."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self._takes_s = takes_s

    def of(self, _arrival: Arrival) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop._now_s += self._takes_s
        return "hi"

    def answered(self, *_: object) -> None: ...


def played(
    feed: Given, market: Market, *, texts: Texts | None = None, stop_s: float | None = None
) -> tuple[Drive, list[Ended]]:
    told: list[Ended] = []

    async def story() -> Drive:
        made = Drive(feed, texts or Texts(), market, (), told.append)  # type: ignore[arg-type]
        if stop_s is not None:
            asyncio.get_running_loop().call_later(stop_s, made.stop)
        await made.run()
        return made

    return run_virtually(story()), told


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30))
def test_requests_are_sent_at_their_time_whatever_became_of_others(times: list[float]) -> None:
    """An answer that takes a minute delays nobody: each request comes when it was due."""
    asked = [arrival(n, at_s=at_s) for n, at_s in enumerate(sorted(times))]
    market = Market(lambda _: 60.0)

    drive, told = played(Given(asked), market)

    for each in asked:
        assert market.came_s[each.number] == pytest.approx(each.at_s, abs=1e-6)
    assert sorted(ended.arrival.number for ended in told) == [each.number for each in asked]
    assert max(drive.generator.late_s) == pytest.approx(0.0, abs=1e-6)


def test_a_late_generator_shows_as_latency() -> None:
    """Requests that could not be sent in time count from when they were due, and how late they
    were sent is told: a slow client never makes a market look quick.
    """
    asked = [arrival(n, at_s=0.0) for n in range(10)]

    drive, told = played(Given(asked), Market(lambda _: 1.0), texts=Texts(0.5))

    late = list(drive.generator.late_s)
    assert late == pytest.approx([0.5 * n for n in range(10)])
    by_number = sorted(told, key=lambda ended: ended.arrival.number)
    assert [e.e2e_s for e in by_number] == pytest.approx([6.0] * 10)


def test_a_closed_loop_is_asked_on_by_its_answers() -> None:
    """A request that an answer brings about is sent when it is due, not before and not at the end
    of everything else.
    """

    class Chain(Given):
        """Three requests, each two seconds after the answer to the one before."""

        def __init__(self) -> None:
            super().__init__([arrival(0)])
            self.left = 2

        @property
        def over(self) -> bool:
            return self.left == 0 and self._next is None

        def ended(self, ended: Ended) -> None:
            if self.left:
                self.left -= 1
                at_s = ended.arrival.at_s + (ended.e2e_s or 0.0) + 2.0
                self._next = arrival(ended.arrival.number + 1, at_s=at_s)

    market = Market(lambda _: 3.0)
    played(Chain(), market)
    assert market.came_s == pytest.approx({0: 0.0, 1: 5.0, 2: 10.0})


def test_what_is_cut_off_is_told_as_open_once() -> None:
    """Stopped, nothing more is sent, each request under way ends as open, and none is told twice
    or forgotten.
    """
    asked = [arrival(n, at_s=float(n)) for n in range(100)]

    drive, told = played(Given(asked), Market(lambda a: 1.5 + a.number), stop_s=10.0)

    assert drive.interrupted
    assert [e.arrival.number for e in told if e.status == "ok"] == [0, 1, 2, 3, 4]
    assert sorted(e.arrival.number for e in told) == list(range(10))
    assert {e.status for e in told if e.arrival.number > 4} == {"open"}


def test_a_request_beyond_the_limit_is_told_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A market that answers nothing does not fill this machine's memory, and what was not sent
    is counted.
    """
    monkeypatch.setattr(driving, "OPEN_MAX", 5)
    asked = [arrival(n, at_s=0.1 * n) for n in range(9)]

    drive, told = played(Given(asked), Market(lambda _: 30.0))

    assert drive.generator.not_sent == 4
    assert drive.generator.open_max == 5
    assert [e.code for e in told if e.status == "failed"] == [driving.NOT_SENT] * 4


def test_an_answer_of_another_length_is_counted() -> None:
    """Prompts that the market counts otherwise, and answers that ended early, are each counted."""

    class Shorter(Market):
        async def ask(self, ended: Ended, body: bytes, due_s: float, ear: Ear) -> None:
            await super().ask(ended, body, due_s, ear)
            ended.said_tokens -= ended.arrival.number % 2
            ear.usage = {"prompt_tokens": 99 + ended.arrival.number // 3}

    asked = [arrival(n, prompt=99) for n in range(6)]
    drive, _ = played(Given(asked), Shorter(lambda _: 1.0))
    assert (drive.generator.shorter, drive.generator.miscounted) == (3, 3)
