"""The seams: what the rules expect of the outside world, as protocols.

Each port has at least two implementations and one contract suite in `tests/contract`.

| port | implementations |
|---|---|
| Engine | `actors.engines.mlx`, `.echo`, `.simulated` |
| Transport (client side: ProviderLink) | `actors.transport.framed`, `actors.transport.ray_stream` |
| LedgerStore | `storage.memory`, `storage.ledger_store` (SQLite) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from market.types import EngineStats, Event, Job, ModelFacts, RequestId

EventSink = Callable[[Sequence[Event]], None]
"""Takes all events of one engine step. Called on the event loop, never blocks."""


class Engine(Protocol):
    """Runs jobs of one model. All methods are called from one asyncio loop.

    Laws, held by `tests/contract/test_engine.py` for every implementation: a job ends
    exactly once per choice; counts are cumulative and never exceed `max_tokens`; after
    `cancel` at most one more step's events come, then a `cancelled` finish for each open
    choice; concatenated text equals the decoded tokens cut at the first stop string;
    an invalid job raises and leaves the others exact; what a job says after `said` joins
    to what another engine said before it, as if one had said it all.
    """

    async def load(self, sink: EventSink) -> ModelFacts:
        """Load and warm the model; events go to `sink` from now on.

        Raises InvalidRequest when the model folder cannot be served, naming the file, and
        Unavailable when other models leave no room for it now.
        """
        ...

    def submit(self, job: Job) -> None:
        """Accept a job; it starts as soon as memory and slots allow.

        Raises InvalidRequest when the job can never run here, Unavailable when the
        bounded queue is full or the engine is closing.
        """
        ...

    def cancel(self, request_id: RequestId) -> None:
        """Stop a job within one step. Unknown ids are ignored: the job has ended."""
        ...

    def stats(self) -> EngineStats:
        """A reading that costs nothing to take."""
        ...

    def healthy(self) -> bool:
        """False once the engine can no longer make progress and must be restarted."""
        ...

    async def close(self) -> None:
        """Cancel what runs, or the load under way, and free the model. Idempotent."""
        ...


class ProviderLink(Protocol):
    """A gateway's connection to one provider, shared by all its requests there."""

    async def submit(self, job: Job, on_event: Callable[[Event], None]) -> None:
        """Send a job. Its events are delivered in order on the event loop.

        If the provider or the wire dies, `on_event` gets one `lost` failure; nothing is
        ever silently dropped. Raises ConnectionError when the link cannot be opened.
        """
        ...

    def cancel(self, request_id: RequestId) -> None:
        """Ask the provider to stop. Fire and forget; a `cancelled` finish follows."""
        ...

    async def close(self) -> None:
        """Close the connection; every open job gets a `lost` failure."""
        ...
