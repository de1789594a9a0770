"""The fair queue of one model: who is served next when a slot becomes free.

Late binding: requests wait here, not on a Mac, and leave only for a slot that is free
now. Consumers are served by service received so far, counted in cost tokens; the one who
has had least comes first, so nobody gains by sending more requests at once.

The bound. Between two consumers that both wait throughout, with requests that any Mac of
the model may run, the service granted differs by at most 2 × the largest cost of one
request of theirs, however long they wait and whatever they send: the next one served is
always the one with the smaller counter, so the counters never part by more than one
request. A consumer returning from idleness starts level with those waiting; it neither
keeps credit for its absence nor pays for slots it used while nobody waited.

Costs are expectations when charged; once a request has ended the difference to what it
really took is charged too, so that systematic underestimates gain nothing either.
Interactive requests go before batch ones. Service while the queue is empty is free.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from market.errors import RateLimited, Unavailable
from market.routing.messages import RouteRequest
from market.types import AccountId, GatewayId, ModelId, RequestId

MAX_WAITING_REQUESTS = 1024
"""Per model. At 2 KB each, all the memory a flood can take from the router per model."""

MAX_WAITING_PER_CONSUMER = 512
"""Half the queue: one consumer's flood never closes the door on the others."""

MAX_COUNTERS = 10_000
"""Consumers whose service is remembered while they do not wait, per model."""

_Line = tuple[bool, AccountId]  # (is batch, consumer): requests of a line go first in, first out

INPUT_COST = 1
OUTPUT_COST = 4
"""Cost tokens per token: the price lists charge about four times as much for output."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue, until `expires_s`. `cost` is in cost tokens."""

    request: RouteRequest
    enqueued_s: float
    expires_s: float
    cost: float
    passed_over_s: float | None = None  # since when narrower requests overtook it


def cost_tokens(request: RouteRequest, expected_tokens: float) -> float:
    """What serving this request is expected to take, in cost tokens."""
    completion = min(expected_tokens, request.max_tokens) * request.n
    return INPUT_COST * request.prompt_tokens + OUTPUT_COST * completion


class FairQueue:
    """Waiting requests of one model, bounded, in order of service received."""

    def __init__(
        self,
        model: ModelId,
        max_waiting: int = MAX_WAITING_REQUESTS,
        max_per_consumer: int = MAX_WAITING_PER_CONSUMER,
    ) -> None:
        self.model = model
        self._max_waiting = max_waiting
        self._max_per_consumer = max_per_consumer
        self._by_id: dict[RequestId, Waiting] = {}
        self._lines: dict[_Line, deque[Waiting]] = {}
        self._served: dict[AccountId, float] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._by_id

    def find(self, request_id: RequestId) -> Waiting | None:
        """The entry of a waiting request."""
        return self._by_id.get(request_id)

    def push(
        self, request: RouteRequest, now_s: float, cost: float, retry_after_s: float
    ) -> Waiting:
        """Let a request wait. Raises Unavailable or RateLimited, naming the limit."""
        if len(self._by_id) >= self._max_waiting:
            raise Unavailable(
                f"{len(self._by_id)} requests already wait for {self.model}, which is the limit; "
                "try again later.",
                None,
                "queue_full",
                retry_after_s,
                True,
            )
        key = _line_of(request)
        line = self._lines.get(key)
        if line is not None and len(line) >= self._max_per_consumer:
            raise RateLimited(
                f"{len(line)} of your requests already wait for {self.model}, which is one "
                "account's limit; wait for some of them to finish.",
                None,
                "queue_share",
                retry_after_s,
                True,
            )
        waiting = Waiting(request, now_s, now_s + request.deadline_s, cost)
        if line is None:
            level = min((self._served[consumer] for _, consumer in self._lines), default=0.0)
            self._served[request.consumer] = max(self._served.get(request.consumer, 0.0), level)
            line = self._lines[key] = deque()
        line.append(waiting)
        self._by_id[request.request_id] = waiting
        return waiting

    def remove(self, request_id: RequestId) -> Waiting | None:
        """Take a request out without serving it."""
        waiting = self._by_id.pop(request_id, None)
        if waiting is None:
            return None
        key = _line_of(waiting.request)
        self._lines[key].remove(waiting)
        if not self._lines[key]:
            del self._lines[key]
            self._forget_idle()
        return waiting

    def serve(self, request_id: RequestId) -> Waiting:
        """Take a request out for a slot; its consumer is charged its cost."""
        waiting = self._by_id[request_id]
        self._served[waiting.request.consumer] += waiting.cost
        self.remove(request_id)
        return waiting

    def correct(self, consumer: AccountId, difference: float) -> None:
        """The served request cost this much more (or less) than expected.

        Only a consumer whose counter is still kept is corrected: others start level anyway.
        """
        if consumer in self._served:
            self._served[consumer] = max(0.0, self._served[consumer] + difference)

    def in_order(self) -> Iterator[Waiting]:
        """All waiting requests as they should be tried: class, then least service, then age.

        A consumer's later requests count as if its earlier ones were served, so that
        serving several in one pass stays fair. The queue may change between two steps.
        """
        lines = [(key, list(line)) for key, line in self._lines.items()]
        heap = [
            (is_batch, self._served[consumer], line[0].enqueued_s, number, 0)
            for number, ((is_batch, consumer), line) in enumerate(lines)
        ]
        heapq.heapify(heap)
        while heap:
            is_batch, served, _, number, index = heapq.heappop(heap)
            line = lines[number][1]
            yield line[index]
            if index + 1 < len(line):
                served += line[index].cost
                entry = (is_batch, served, line[index + 1].enqueued_s, number, index + 1)
                heapq.heappush(heap, entry)

    def expired(self, now_s: float) -> list[Waiting]:
        """Take out and return every request whose deadline has passed."""
        late = [waiting for waiting in self._by_id.values() if now_s >= waiting.expires_s]
        for waiting in late:
            self.remove(waiting.request.request_id)
        return late

    @property
    def oldest_s(self) -> float:
        """Since when the first in its line has waited longest; now it must not be empty."""
        return min(line[0].enqueued_s for line in self._lines.values())

    def ahead_of(self, request: RouteRequest) -> list[float]:
        """The costs of those who would be served before this one, if it joined now."""
        line = self._lines.get(_line_of(request), ())
        is_batch = request.request_class == "batch"
        # Others of its class share turns with it: of each, as many as it has itself.
        ahead = [
            other
            for (batch, _), others in self._lines.items()
            if batch < is_batch
            for other in others
        ]
        ahead += [
            other
            for (batch, consumer), others in self._lines.items()
            if batch == is_batch and consumer != request.consumer
            for other in islice(others, len(line) + 1)
        ]
        return [waiting.cost for waiting in (*ahead, *line)]

    def of_gateway(self, gateway: GatewayId) -> list[Waiting]:
        """Requests this gateway waits for."""
        return [w for w in self._by_id.values() if w.request.gateway == gateway]

    def served(self, consumer: AccountId) -> float:
        """The consumer's counter, in cost tokens; 0 when it is level with the rest."""
        return self._served.get(consumer, 0.0)

    def _forget_idle(self) -> None:
        """Drop the counters of consumers that do not wait and would gain nothing by them."""
        level = min((self._served[consumer] for _, consumer in self._lines), default=None)
        waiting = {consumer for _, consumer in self._lines}
        too_many = len(self._served) > MAX_COUNTERS
        self._served = {
            consumer: served
            for consumer, served in self._served.items()
            if consumer in waiting or (level is not None and served > level and not too_many)
        }


def _line_of(request: RouteRequest) -> _Line:
    return (request.request_class == "batch", request.consumer)
