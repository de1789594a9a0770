"""Requests that have nothing to do with each other: the quick path, in chunks of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np

from market.policy.preferences import NO_PREFERENCES
from simulator.streams import Streams
from simulator.workloads.intensity import Clock, Pieces, product
from simulator.workloads.laws import FloatArray, IntArray
from simulator.workloads.people import Fashion, People, Wishing
from simulator.workloads.rows import Fit, Notes, Row
from simulator.workloads.spec import Synthetic

CHUNK_FIRST = 256
CHUNK_MAX = 4_096
"""Arrivals drawn at once: a short run draws few, and a long one keeps as many in memory."""


def rhythms(spec: Synthetic, streams: Streams, base: Pieces) -> Pieces:
    """The rate over time: the base, and everything that it is multiplied by."""
    pieces = [base]
    rhythm = spec.rhythm
    if rhythm.on_off is not None:
        pieces.append(rhythm.on_off.pieces(streams.stream("rhythm:on_off")))
    if rhythm.day is not None:
        pieces.append(rhythm.day.pieces())
    if rhythm.spikes is not None:
        pieces.append(rhythm.spikes.pieces(streams.stream("rhythm:spikes")))
    return product(pieces)


def begins(
    spec: Synthetic, people: People, streams: Streams, base: Pieces
) -> Iterator[tuple[FloatArray, IntArray]]:
    """When requests, or sessions, begin and whose they are; chunk by chunk, without end."""
    clock = Clock(rhythms(spec, streams, base))
    if spec.consumers.cv is not None:
        for units, who in people.arrivals(spec.gaps.family):
            yield clock.seconds(units), who
    random, size, before = streams.stream("gaps"), CHUNK_FIRST, 0.0
    while True:
        units = before + np.cumsum(spec.gaps.draw(random, size))
        before = float(units[-1])
        yield clock.seconds(units), people.draw(size)
        size = min(2 * size, CHUNK_MAX)


def plain_rows(spec: Synthetic, streams: Streams, base: Pieces, notes: Notes) -> Iterator[Row]:
    """Requests in order of time, without end."""
    people = People(spec.consumers, spec.name, streams)
    fashion = Fashion(spec.models, streams)
    wishing = Wishing(spec.terms.wishes, spec.models, spec.consumers.count, streams)
    terms = spec.terms
    fit = Fit(spec.models.cards, terms.max_tokens, notes)
    lengths = streams.stream("lengths")
    for at_s, who in begins(spec, people, streams, base):
        models = fashion.draw(at_s)
        prompts, outputs = spec.lengths.draw(lengths, len(at_s))
        if spec.consumers.length_sigma:
            prompts, outputs = (
                prompts * people.length_factor[who],
                outputs * people.length_factor[who],
            )
        prompt, output, limit = fit.all(prompts, outputs, models)
        yield from zip(
            at_s.tolist(),
            people.names[who].tolist(),
            fashion.ids[models].tolist(),
            prompt,
            output,
            limit,
            repeat(terms.request_class),
            repeat(""),
            repeat(()),
            repeat(()),
            repeat(terms.deadline_s),
            repeat(NO_PREFERENCES) if terms.wishes.none else wishing.draw(who, models),
            repeat(spec.name),
            strict=False,
        )
