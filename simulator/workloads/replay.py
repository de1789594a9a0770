"""A recorded trace as requests of the lab: in order, at its own pace or another, on our models."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Final

from market.policy.preferences import Preferences
from market.policy.prefixes import BLOCK_TOKENS
from simulator.streams import Streams
from simulator.workloads.blocks import blocks_in, regrouped, text_id
from simulator.workloads.demand import Capacity, Demand, per_second
from simulator.workloads.people import Fashion, People, Wishing, uniforms
from simulator.workloads.rows import Fit, Notes, Row
from simulator.workloads.spec import Replayed
from simulator.workloads.trace_files import refuse
from simulator.workloads.trace_formats import read
from simulator.workloads.trace_rows import TraceRow

REORDER_ROWS = 4_096
"""How many rows late a row may be and still be put in its place."""

MEASURED_ROWS = 50_000
"""Of the beginning of a trace, to know its pace and its lengths."""

ASSUMED: Final = "trace models taken for one of the scenario's"
FOREIGN_MODELS_MAX = 10_000
WISHES: Final = ("sort", "trust", "max_price_in_nano", "max_price_out_nano")


def in_order(spec: Replayed, notes: Notes) -> Iterator[TraceRow]:
    """The rows by time. Raises InvalidRequest for one that is too late to be put in its place."""
    held: list[tuple[float, int, TraceRow]] = []
    last_s, last_line = -inf, 0
    rows = read(spec.path, spec.format, notes)
    while True:
        row = next(rows, None)
        if row is not None:
            if row.at_s < last_s:
                refuse(
                    spec.path,
                    row.line,
                    f"its time is {last_s - row.at_s:g} s before that of line {last_line}, more "
                    f"than {REORDER_ROWS} rows earlier; sort the trace by time first.",
                )
            heapq.heappush(held, (row.at_s, row.line, row))
            if len(held) <= REORDER_ROWS:
                continue
        if not held:
            return
        last_s, last_line, out = heapq.heappop(held)
        yield out


def window(spec: Replayed, notes: Notes) -> Iterator[tuple[float, TraceRow]]:
    """The part that is played: seconds since its begin, in the trace's own time."""
    start_s: float | None = None
    found = False
    for row in in_order(spec, notes):
        if start_s is None:
            start_s = row.at_s
        since_s = row.at_s - start_s
        if spec.until_s is not None and since_s >= spec.until_s:
            break
        if since_s >= spec.from_s:
            found = True
            yield since_s - spec.from_s, row
    if start_s is None:
        refuse(spec.path, None, "has no request with a prompt and an answer.")
    if not found:
        refuse(spec.path, None, "has no request between from_s and until_s; widen them.")


def replayed_rows(
    spec: Replayed, streams: Streams, capacity: Capacity | None, notes: Notes
) -> Iterator[Row]:
    """The requests of a trace. Ends with it."""
    speed = _speed(spec, streams, capacity)
    player = _Player(spec, streams, notes)
    for since_s, row in window(spec, notes):
        yield player.play(since_s / speed, row)


def _speed(spec: Replayed, streams: Streams, capacity: Capacity | None) -> float:
    """How many times as fast: as it says, or so that its beginning has the rate it says."""
    if spec.rate is None:
        return spec.speed
    unheard: Notes = Notes()
    player = _Player(spec, streams, unheard)
    sums: dict[str, list[float]] = {}
    last_s = 0.0
    total = 0
    for since_s, trace_row in islice(window(spec, unheard), MEASURED_ROWS):
        row = player.play(since_s, trace_row)
        mean = sums.setdefault(row[2], [0.0, 0.0, 0.0])
        mean[0] += 1
        mean[1] += row[3]
        mean[2] += row[4]
        last_s, total = since_s, total + 1
    if last_s <= 0.0:
        refuse(spec.path, None, "has all its requests at one moment; give speed instead of a rate.")
    mix = [
        Demand(card.id, n / total, prompt / n, output / n, prompt / n)
        for card in spec.models.cards
        for n, prompt, output in [sums.get(card.id, [0.0, 0.0, 0.0])]
        if n
    ]
    return per_second(spec.rate, mix, capacity, spec.name) / (total / last_s)


class _Player:
    """Turns rows into requests: whose, for which model, with which limit."""

    def __init__(self, spec: Replayed, streams: Streams, notes: Notes) -> None:
        self._spec = spec
        self._notes = notes
        self._people = People(spec.consumers, spec.name, streams)
        self._fashion = Fashion(spec.models, streams)
        self._wishing = Wishing(spec.terms.wishes, spec.models, spec.consumers.count, streams)
        self._fit = Fit(spec.models.cards, spec.terms.max_tokens, notes)
        self._who = uniforms(streams.stream("who"))
        self._which = uniforms(streams.stream("models"))
        places: dict[str, int] = {card.id: n for n, card in enumerate(spec.models.cards)}
        self._models = places | {name: places[card.id] for name, card in spec.renamed}
        self._dealt = [n for n, share in enumerate(spec.models.shares) if share > 0.0]
        self._foreign: dict[str, int] = {}

    def play(self, at_s: float, row: TraceRow) -> Row:
        """One request."""
        spec, terms = self._spec, self._spec.terms
        model = self._model(row, at_s)
        who = self._consumer(row)
        consumer = row.consumer or self._people.names[who]
        prompt, output, limit = self._fit.one(row.prompt_tokens, row.output_tokens, model)
        if row.max_tokens is not None:
            room = spec.models.cards[model].context_tokens - prompt
            limit = min(max(row.max_tokens, output), room)
        wishes = self._wishing.one(who, model)
        prefix, leaves = self._blocks(row, prompt, output, consumer, model)
        return (
            at_s,
            consumer,
            self._fashion.ids[model],
            prompt,
            output,
            limit,
            row.request_class or terms.request_class,
            row.session,
            prefix,
            leaves,
            terms.deadline_s if row.deadline_s is None else row.deadline_s,
            _wishes(row, wishes),
            spec.name,
        )

    def _model(self, row: TraceRow, at_s: float) -> int:
        """By the trace's name for it; without one by the workload's shares.

        A name that nobody explained stands for one of ours, the same whenever it comes: the
        first for the first, and so on. That is counted.
        """
        if not row.model:
            return self._fashion.at(at_s, next(self._which))
        known = self._models.get(row.model, self._models.get("*"))
        if known is not None:
            return known
        self._notes[ASSUMED] += 1
        if row.model not in self._foreign:
            if len(self._foreign) >= FOREIGN_MODELS_MAX:
                refuse(self._spec.path, row.line, "too many names of models; is that the column?")
            self._foreign[row.model] = self._dealt[len(self._foreign) % len(self._dealt)]
        return self._foreign[row.model]

    def _consumer(self, row: TraceRow) -> int:
        """Somebody for a row that names nobody: whatever belongs together has one consumer."""
        together: object = row.session or row.prefix[:2][-1:]
        if together:
            return self._people.at(text_id("whose", together) / 2.0**64)
        return self._people.at(next(self._who))

    def _blocks(
        self, row: TraceRow, prompt: int, output: int, consumer: str, model: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The prompt's block hashes, and those of prompt and answer.

        Ours are taken as they are: those of a named consumer are its own already.
        """
        if not row.prefix and not row.answer:
            return (), ()
        # A last block that is not full may have a hash too; answers go on after whole ones.
        whole = row.prefix[: row.prompt_tokens // row.block_tokens]
        hashes = (*whole, *row.answer) if row.answer else row.prefix
        if row.block_tokens != BLOCK_TOKENS or not row.consumer:
            text = text_id("trace", consumer, self._fashion.ids[model])
            hashes = tuple(regrouped(hashes, row.block_tokens, prompt + output, text))
        leaves = hashes[: blocks_in(prompt + output)]
        prefix = leaves[: blocks_in(prompt)]
        return prefix, leaves if row.answer else prefix


def _wishes(row: TraceRow, wishes: Preferences) -> Preferences:
    """The workload's wishes, and over them what the trace says."""
    own = {name: value for name in WISHES if (value := getattr(row, name)) is not None}
    return replace(wishes, **own) if own else wishes
