"""Bodies become calls: small ones on the loop, large ones on worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from market.accounting.prices import Price
from market.catalogue import ModelCard
from market.types import AccountId, RequestClass
from serve_app.desk import Desk
from serve_app.parameters import Call, Kind
from serve_app.prepare import Begun, Prepared, Wanted, begin, prepare
from serve_app.views import list_price
from serve_app.wishes import ModelWish, Wishes

WORKER_THREADS = 2  # decoding and tokenising release the GIL for most of their time

Result = TypeVar("Result")


class Preparing:
    """Reads and tokenises for one gateway, and fills in what only the gateway knows."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._workers = ThreadPoolExecutor(WORKER_THREADS, "coster-door")

    async def begin(
        self, kind: Kind | None, body: bytes, route: bytes | None, account: AccountId
    ) -> Begun:
        """Understand a body, and prepare it for its first model. Raises what is wrong with it.

        Without a `kind` it is what the body looks like.
        """
        ports = self._desk.ports
        told = None if route is None else route.decode("latin-1").strip().lower()
        work = partial(begin, kind, body, told, account, ports.catalogue, ports.models)
        return await self._do(work, len(body))

    async def prepare(
        self, call: Call, model: ModelWish, account: AccountId, body_bytes: int
    ) -> Prepared:
        """The call for another of its models. Raises what keeps this one from serving it."""
        ports = self._desk.ports
        work = partial(prepare, call, model, account, ports.catalogue, ports.models)
        return await self._do(work, body_bytes)

    async def _do(self, work: Callable[[], Result], body_bytes: int) -> Result:
        if body_bytes <= self._desk.limits.inline_body_bytes:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def wanting(
        self,
        prepared: Prepared,
        wishes: Wishes,
        model: ModelWish,
        account: AccountId,
        started_s: float,
    ) -> Prepared:
        """With what the router is told besides. `started_s` is of the monotonic clock.

        `wishes` are the call's, with the caller's own machines where they matter.
        """
        session = wishes.session and self._desk.ports.sealer.session(account, wishes.session)
        finish_at_s = None if wishes.deadline_s is None else started_s + wishes.deadline_s
        wanted = Wanted(
            price=self.price(prepared.card),
            patience_s=self.patience_s(wishes.request_class),
            preferences=wishes.of(model),
            request_class=wishes.request_class,
            finish_at_s=finish_at_s,
            session=session,
        )
        return prepared.wanting(wanted)

    def price(self, card: ModelCard) -> Price:
        """What a model costs now, as far as this gateway knows."""
        return self._desk.ports.accountant.prices().get(card.id) or list_price(card)

    def patience_s(self, request_class: RequestClass) -> float:
        """How long a request of this class waits for a slot."""
        limits = self._desk.limits
        return limits.batch_queue_s if request_class == "batch" else limits.queue_s

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
