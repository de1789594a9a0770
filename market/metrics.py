"""What processes count, and by which names: families, samples and histograms. Pure.

A sample's key is its name with its labels, written as Prometheus writes them. Processes send
each other plain mappings from keys to numbers; what is counted alike has equal keys, so the
counts of many processes are added up key by key.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

HISTOGRAM_PARTS: Final = ("_bucket", "_sum", "_count")
"""What the samples of a histogram end in."""

LE: Final = "le"
"""The label that holds a bucket's upper bound."""

_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n"}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it counts in a sentence, and the labels of its samples.

    A counter's name ends in `_total`. `bounds` are the inclusive upper bounds of a histogram's
    buckets, in the unit its name ends in; the last bucket takes what is beyond.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def counter(name: str, text: str, *labels: str) -> Family:
    """A number that only grows while its process lives."""
    assert name.endswith("_total"), name
    return Family(name, "counter", text, labels)


def gauge(name: str, text: str, *labels: str) -> Family:
    """A present reading."""
    return Family(name, "gauge", text, labels)


def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family:
    """How often something had which size."""
    assert list(bounds) == sorted(set(bounds)), name
    return Family(name, "histogram", text, labels, bounds)


def labelled(name: str, /, **labels: str | int) -> str:
    """The key `name{a="x",b="y"}`, with the labels in the order given."""
    if not labels:
        return name
    inside = ",".join(f'{label}="{_escaped(str(value))}"' for label, value in labels.items())
    return f"{name}{{{inside}}}"


def parts_of(key: str) -> tuple[str, dict[str, str]]:
    """A key's name and labels: the inverse of `labelled`."""
    name, brace, inside = key.partition("{")
    if not brace:
        return name, {}
    return name, {found[1]: _plain(found[2]) for found in _LABEL.finditer(inside)}


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _plain(value: str) -> str:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), value)


class Histogram:
    """Counts of one thing's sizes: observing is a search in the bounds and two additions."""

    __slots__ = ("_bounds", "_counts", "_keys", "_sum")

    def __init__(self, family: Family, **labels: str) -> None:
        assert tuple(labels) == family.labels, family.name
        self._bounds = family.bounds
        self._counts = [0] * (len(family.bounds) + 1)
        self._sum = 0.0
        name = family.name
        les = [*map(bound_text, family.bounds), "+Inf"]
        self._keys = (
            *(labelled(f"{name}_bucket", **labels, le=le) for le in les),
            labelled(f"{name}_sum", **labels),
            labelled(f"{name}_count", **labels),
        )

    def observe(self, size: float) -> None:
        """Count one thing of this size, in the family's unit."""
        self._counts[bisect_left(self._bounds, size)] += 1
        self._sum += size

    def samples(self) -> Iterator[tuple[str, float]]:
        """Prometheus' samples: each bucket counts all that is not larger, then sum and count."""
        count = 0
        for at, in_bucket in enumerate(self._counts):
            count += in_bucket
            yield self._keys[at], float(count)
        yield self._keys[-2], self._sum
        yield self._keys[-1], float(count)


def bound_text(bound: float) -> str:
    """A bucket's bound as its label says it, alike in every process."""
    return f"{bound:g}"


def added_up(many: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The counts of several processes together."""
    sums: dict[str, float] = {}
    for counts in many:
        for key, value in counts.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


def family_of(name: str, families: Mapping[str, Family]) -> Family | None:
    """The family that a sample of this name belongs to, by the families' names."""
    found = families.get(name)
    if found is not None:
        return found
    for part in HISTOGRAM_PARTS:
        base = families.get(name.removesuffix(part))
        if base is not None and base.kind == "histogram" and name.endswith(part):
            return base
    return None
