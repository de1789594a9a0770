"""A till over the processor without a wire, opened and closed for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from market.settings import PaymentSettings
from tests.support.memory_processor import MemoryProcessor
from tests.support.payments import ANN, Till


def memory_till(folder: Path, terms: PaymentSettings | None = None) -> Till:
    """Not yet open."""
    return Till(folder, lambda till: MemoryProcessor(lambda: int(till.now_s)), terms=terms)


@asynccontextmanager
async def open_till(folder: Path, terms: PaymentSettings | None = None) -> AsyncIterator[Till]:
    """With Ann and Bob; the books must be right when it closes."""
    till = await memory_till(folder, terms).open()
    await till.people()
    yield till
    assert till.problems() == []
    await till.close()


def shop(till: Till) -> MemoryProcessor:
    """The processor of a till."""
    assert isinstance(till.processor, MemoryProcessor)
    return till.processor


async def hear_all(till: Till, since: int = 0) -> None:
    """Every notice from this one on arrives, and is acted on."""
    await till.hear(*shop(till).events[since:])
    await till.work()


async def paid(till: Till, cents: int = 2500, key: str = "k") -> str:
    """Ann pays in; the top-up's id."""
    row = await till.payments.topup(ANN, cents, key)
    shop(till).pay(row.id)
    await hear_all(till)
    return row.id
