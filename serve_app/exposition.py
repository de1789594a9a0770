"""The doorway to prometheus_client: every metric of the market as one page of text.

The client library writes the format; what there is to write comes from the actors as plain
numbers. A sample that belongs to no known family is shown as untyped, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from market.accounting import metric_families as ledger
from market.metrics import LE, Family, family_of, parts_of
from market.payments import metric_families as payments
from market.routing import metric_families as router
from serve_app import genai, metric_names

TEXT_FORMAT: Final = CONTENT_TYPE_PLAIN_0_0_4

FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        *metric_names.FAMILIES,
        *genai.FAMILIES,
        *router.FAMILIES,
        *ledger.FAMILIES,
        *payments.FAMILIES,
    )
}
"""Everything `/metrics` may show, by name."""

UNKNOWN: Final = "Not described by this version."


class _Page(Collector):
    """The families of one scrape, as the client library wants them."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values

    def collect(self) -> Iterator[Metric]:
        # Also what has no sample yet: a page says by itself which names there will be.
        metrics = {name: _metric(name, family) for name, family in FAMILIES.items()}
        for key, value in sorted(self._values.items(), key=lambda sample: _order(sample[0])):
            name, labels = parts_of(key)
            family = family_of(name, FAMILIES)
            found = family.name if family is not None else name
            if found not in metrics:
                metrics[found] = _metric(found, family)
            metrics[found].add_sample(name, labels, value)
        yield from (metrics[name] for name in sorted(metrics))


def _metric(name: str, family: Family | None) -> Metric:
    if family is None:
        return Metric(name, UNKNOWN, "unknown")
    plain = name.removesuffix("_total") if family.kind == "counter" else name
    return Metric(plain, family.text, family.kind)


def _order(key: str) -> tuple[str, tuple[tuple[str, str], ...], float]:
    """By name, then labels, the buckets of one histogram by their bounds."""
    name, labels = parts_of(key)
    bound = float(labels.pop(LE, "inf"))
    return name, tuple(labels.items()), bound


def exposition(values: Mapping[str, float]) -> bytes:
    """Prometheus' text format, with the names of `genai` beside our own."""
    return generate_latest(_Page({**values, **dict(genai.also_known_as(values))}))
