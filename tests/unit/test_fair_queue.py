"""Laws of the fair queue."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import RateLimited, Unavailable
from market.routing.fair_queue import FairQueue
from market.types import AccountId, RequestId
from tests.router_kit import GATEWAY, MODEL, request


def push(queue: FairQueue, name: str, consumer: str, cost: float, now_s: float = 0.0) -> None:
    queue.push(request(name, consumer=consumer, queue=True), now_s, cost, 1.0)


def order(queue: FairQueue) -> list[str]:
    return [entry.request.request_id for entry in queue.in_order()]


def test_one_consumer_is_served_in_order_of_arrival() -> None:
    """Within a consumer the queue is first in, first out."""
    queue = FairQueue(MODEL)
    for number in range(5):
        push(queue, f"r{number}", "a", 100.0, float(number))
    assert order(queue) == [f"r{number}" for number in range(5)]


def test_a_flood_does_not_delay_another_consumer() -> None:
    """Whoever sends one request is next, behind one request of a flood at most."""
    queue = FairQueue(MODEL)
    for number in range(50):
        push(queue, f"flood{number}", "a", 100.0)
    push(queue, "single", "b", 100.0, 1.0)
    assert order(queue).index("single") == 1


def test_interactive_goes_before_batch() -> None:
    """Batch requests wait for interactive ones, of the same consumer too."""
    queue = FairQueue(MODEL)
    batch = request("batch", queue=True)
    object.__setattr__(batch, "request_class", "batch")
    queue.push(batch, 0.0, 1.0, 1.0)
    push(queue, "interactive", "acct_c", 1000.0, 5.0)
    assert order(queue) == ["interactive", "batch"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.lists(st.integers(1, 400), min_size=1))
def test_service_of_backlogged_consumers_differs_by_at_most_two_requests(
    seed: int, consumers: int, costs: list[int]
) -> None:
    """The stated bound: 2 × the largest cost, at every moment, whatever each one sends."""
    rng = random.Random(seed)
    queue = FairQueue(MODEL)
    names = [f"acct_{i}" for i in range(consumers)]
    served = dict.fromkeys(names, 0.0)
    number = 0

    def refill() -> None:
        nonlocal number
        for name in names:
            while sum(e.request.consumer == name for e in queue.in_order()) < 2:
                number += 1
                push(queue, f"r{number}", name, float(rng.choice(costs)), float(number))

    refill()
    for _ in range(60):
        entry = queue.serve(next(iter(queue.in_order())).request.request_id)
        served[entry.request.consumer] += entry.cost
        refill()
        assert max(served.values()) - min(served.values()) <= 2 * max(costs)


def test_a_returning_consumer_starts_level() -> None:
    """Absence earns no credit: after coming back one is not served for long in a row."""
    queue = FairQueue(MODEL)
    push(queue, "b0", "b", 100.0)
    queue.serve(RequestId("b0"))
    for number in range(20):
        push(queue, f"a{number}", "a", 100.0)
    for number in range(10):
        queue.serve(RequestId(f"a{number}"))
    for number in range(1, 11):
        push(queue, f"b{number}", "b", 100.0)
    first = [name[0] for name in order(queue)[:6]]
    assert first.count("b") == 3


def test_what_a_request_really_took_is_charged_too() -> None:
    """A consumer whose requests take more than expected is served later."""
    queue = FairQueue(MODEL)
    for number in range(3):
        push(queue, f"a{number}", "a", 100.0)
        push(queue, f"b{number}", "b", 100.0)
    queue.serve(RequestId("a0"))
    queue.serve(RequestId("b0"))
    queue.correct(AccountId("a"), 500.0)
    assert order(queue)[:2] == ["b1", "b2"]


def test_the_queue_is_bounded_and_one_consumer_cannot_fill_it() -> None:
    """Beyond its share a consumer is told 429; beyond the whole everyone is told 503."""
    queue = FairQueue(MODEL, max_waiting=6, max_per_consumer=3)
    for number in range(3):
        push(queue, f"a{number}", "a", 1.0)
    with pytest.raises(RateLimited) as share:
        push(queue, "a3", "a", 1.0)
    for number in range(3):
        push(queue, f"b{number}", "b", 1.0)
    with pytest.raises(Unavailable) as full:
        push(queue, "c0", "c", 1.0)
    assert share.value.retry_after_s == full.value.retry_after_s == 1.0
    assert len(queue) == 6


def test_expired_requests_leave_and_the_others_stay() -> None:
    """A deadline takes out exactly the requests it belongs to."""
    queue = FairQueue(MODEL)
    queue.push(request("short", queue=True, deadline_s=1.0), 0.0, 1.0, 1.0)
    queue.push(request("long", queue=True, deadline_s=9.0), 0.0, 1.0, 1.0)
    assert [e.request.request_id for e in queue.expired(1.0)] == ["short"]
    assert order(queue) == ["long"]
    assert [e.request.request_id for e in queue.of_gateway(GATEWAY)] == ["long"]
    assert queue.remove(RequestId("short")) is None
