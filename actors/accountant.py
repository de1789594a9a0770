"""The accountant: one writer, balances in memory, one durable commit for many callers.

A thin shell around `market.accounting`: it brings clocks, randomness and the disk. Every
operation may be repeated safely, so callers simply ask again.
"""

from __future__ import annotations

from actors.accounting.core import AccountantSettings, Clock
from actors.accounting.histories import HistoryMethods
from actors.accounting.operator import OperatorMethods
from actors.accounting.payments import PaymentMethods
from actors.accounting.statements import StatementMethods

__all__ = ["Accountant", "AccountantSettings", "Clock"]


class Accountant(OperatorMethods, StatementMethods, HistoryMethods, PaymentMethods):
    """Keeps the books. All methods run on one asyncio loop."""
