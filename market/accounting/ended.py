"""Requests that have ended, in memory: a repeated settlement gets its first answer from here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from market.accounting.rows import DeliveryRow, RequestRow
from market.errors import NotFound
from market.types import RequestId

FINISHED_MAX: Final = 65_536  # finished requests remembered; older ones are found on disk


class Ended:
    """The newest FINISHED_MAX ended requests, and what is written of their deliveries."""

    def __init__(self) -> None:
        self.rows: dict[RequestId, RequestRow] = {}
        self._deliveries: dict[RequestId, tuple[DeliveryRow, ...]] = {}

    def add(self, row: RequestRow, deliveries: Sequence[DeliveryRow] = ()) -> None:
        """Know of this one; `deliveries` are all that were written of it, in their order."""
        self.rows[row.request_id] = row
        if deliveries:
            self._deliveries[row.request_id] = tuple(deliveries)
        if len(self.rows) > FINISHED_MAX:
            oldest = next(iter(self.rows))
            del self.rows[oldest]
            self._deliveries.pop(oldest, None)

    def remember(self, rows: Iterable[RequestRow], deliveries: Iterable[DeliveryRow]) -> None:
        """Know of these, which were found on disk, with all that was written of any of them."""
        told: dict[RequestId, list[DeliveryRow]] = {}
        for delivery in deliveries:
            told.setdefault(delivery.request_id, []).append(delivery)
        for row in rows:
            self.add(row, told.get(row.request_id, ()))

    def known(self, request_id: RequestId) -> RequestRow:
        """A request that has ended; raises NotFound for one nobody has heard of."""
        row = self.rows.get(request_id)
        if row is None:
            raise NotFound(
                f"The request {request_id} is not known to the ledger.",
                None,
                "request_not_found",
            )
        return row

    def deliveries(self, request_id: RequestId) -> tuple[DeliveryRow, ...]:
        """What each Mac delivered of it; empty where its own row says it all."""
        return self._deliveries.get(request_id, ())
