"""Soft filters: what is better avoided, but never at the cost of having nobody.

Each narrows the eligible Macs to those that it likes, unless it likes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from market.policy.candidates import BoolArray, FloatArray
from market.policy.scorers import View

Likes = Callable[[View], BoolArray | None]
CROWDED = 2.0
"""A Mac on which a request takes more than so many times as long as there alone is crowded."""

AS_GOOD = 1.1
"""Predictions within a tenth of each other are not worth telling apart."""

_LAPLACE_HIGH = 1.609
"""See `market.policy.predictor.high_factor`."""


def _own_first(view: View) -> BoolArray | None:
    wished = view.ask.preferences
    if wished.own != "prefer" or not wished.own_machines:
        return None
    return np.array([who.machine in wished.own_machines for who in view.candidates.who()])


def _in_order(view: View) -> BoolArray | None:
    """Those of the first provider in the caller's order that has an eligible Mac."""
    order = view.ask.preferences.order
    if not order:
        return None
    providers = [who.provider for who in view.candidates.who()]
    able = {p for p, eligible in zip(providers, view.eligible, strict=True) if eligible}
    first = next((provider for provider in order if provider in able), None)
    return np.array([provider == first for provider in providers])


def _in_time(view: View) -> BoolArray | None:
    """Those that will nine times in ten have finished by the caller's deadline."""
    ask = view.ask
    if ask.finish_by_s is None:
        return None
    predicted, candidates = view.predicted, view.candidates
    tokens = max(ask.high_tokens, 1.0)
    total_ms = predicted.ttft_ms + predicted.step_ms * (tokens - 1.0)
    likely: BoolArray = (
        total_ms * np.exp(_LAPLACE_HIGH * candidates["spread"]) <= ask.finish_by_s * 1e3
    )
    return likely


def _soon_enough(view: View) -> BoolArray | None:
    most_ms = view.ask.preferences.preferred_max_latency_ms
    return view.predicted.ttft_ms <= most_ms if most_ms is not None else None


def _fast_enough(view: View) -> BoolArray | None:
    least_tps = view.ask.preferences.preferred_min_tps
    return view.predicted.step_ms <= 1e3 / least_tps if least_tps is not None else None


def _not_crowded(view: View) -> BoolArray | None:
    """Where it is about as quick as on that Mac alone. Whoever sorts by price would otherwise
    follow all others who do to the cheapest Mac, however many are there; so the cheap ones fill
    up, and then the next dearer ones.
    """
    if view.ask.preferences.sort != "price":
        return None
    candidates, predicted = view.candidates, view.predicted
    factor = candidates["scale_step"] * candidates["bias_step"]
    alone_ms = predicted.alone_ms + candidates["step_1_ms"] * factor * view.ask.expected_tokens
    quick: BoolArray = predicted.total_ms <= CROWDED * alone_ms
    return quick


def _first_by_wish(view: View) -> BoolArray | None:
    """The best by what the caller sorts by, and what is as good as that; they differ by the rest
    of the score alone.
    """
    sort, predicted = view.ask.preferences.sort, view.predicted
    if sort is None:
        return None
    if sort == "price":
        return _best_of(view, predicted.cost_nano, 1.0)
    return _best_of(view, predicted.ttft_ms if sort == "latency" else predicted.step_ms, AS_GOOD)


def _best_of(view: View, values: FloatArray, window: float) -> BoolArray:
    best: BoolArray = values <= window * float(values[view.eligible].min())
    return best


SOFT: dict[str, Likes] = {
    "own_first": _own_first,
    "order": _in_order,
    "deadline": _in_time,
    "preferred_max_latency": _soon_enough,
    "preferred_min_throughput": _fast_enough,
    "crowded": _not_crowded,
    "sort": _first_by_wish,
}


def narrow(view: View) -> tuple[View, tuple[str, ...]]:
    """The view with fewer Macs eligible, and the filters that made them fewer."""
    done: list[str] = []
    for name, fewer in _narrowed(view):
        view = fewer
        done.append(name)
    return view, tuple(done)


def set_aside(view: View) -> list[str | None]:
    """Per Mac the filter that set it aside; None for those that none did, or were not eligible."""
    asides: list[str | None] = [None] * len(view.eligible)
    before = view.eligible
    for name, narrowed in _narrowed(view):
        for index in np.flatnonzero(before & ~narrowed.eligible):
            asides[index] = name
        before = narrowed.eligible
    return asides


def _narrowed(view: View) -> Iterator[tuple[str, View]]:
    """Each filter that counts, with the view that it leaves."""
    for name, likes in SOFT.items():
        liked = likes(view)
        if liked is None:
            continue
        left = view.eligible & liked
        if left.any() and not (left == view.eligible).all():
            view = view.narrowed(left)
            yield name, view
