"""What is counted of the requests of one model: sizes and times, into the gateway's counters.

The histograms of a route and model are looked up once and kept, so that what happens for each
batch of tokens is a search among a few bounds and two additions.
"""

from __future__ import annotations

from market.types import ModelId, Usage
from serve_app import metric_names as names
from serve_app.counters import Counters
from serve_app.parameters import Kind


class ModelMeasures:
    """The counters of one route and one model."""

    def __init__(self, counters: Counters, route: Kind, model: ModelId) -> None:
        self._counters = counters
        self._route = route
        self._model = model
        about = {"route": route, "model": model}
        self._ttft = counters.histogram(names.TTFT, **about)
        self._token = counters.histogram(names.TOKEN_SECONDS, **about)
        self._input = counters.histogram(names.REQUEST_TOKENS, **about, type="input")
        self._output = counters.histogram(names.REQUEST_TOKENS, **about, type="output")
        self._attempts = counters.histogram(names.ATTEMPTS)
        self.gap = counters.histogram(names.GAP, model=model)

    def charged(self, usage: Usage) -> None:
        """These tokens are to be paid for, of a whole answer or of one that was broken off."""
        add, model = self._counters.add, self._model
        add(names.labelled(names.PROMPT_TOKENS, model=model), usage.prompt_tokens)
        add(names.labelled(names.COMPLETION_TOKENS, model=model), usage.completion_tokens)
        add(names.labelled(names.CACHED_TOKENS, model=model), usage.cached_tokens)

    def answered(self, usage: Usage, n: int, ttft_ms: float, total_ms: float) -> None:
        """An answer of `n` choices is complete and settled."""
        self._ttft.observe(ttft_ms / 1e3)
        self._input.observe(usage.prompt_tokens)
        self._output.observe(usage.completion_tokens)
        after_first = usage.completion_tokens / n - 1
        if after_first > 0:
            self._token.observe((total_ms - ttft_ms) / 1e3 / after_first)

    def ended(self, error: str, seconds: float, attempts: int) -> None:
        """A request has ended after so many Macs; `error` is the type it ended with, or ""."""
        self._counters.histogram(
            names.REQUEST_SECONDS, route=self._route, model=self._model, error=error
        ).observe(seconds)
        self._attempts.observe(attempts)


class Measures:
    """The measures of one gateway, by route and model."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._known: dict[tuple[Kind, ModelId], ModelMeasures] = {}

    def of(self, route: Kind, model: ModelId) -> ModelMeasures:
        """Those of one route and one model of the catalogue."""
        known = self._known.get((route, model))
        if known is None:
            known = self._known[route, model] = ModelMeasures(self._counters, route, model)
        return known

    def rejected(self, gate: str, code: str) -> None:
        """A request was refused by this gate, for this reason."""
        self._counters.add(names.labelled(names.REJECTIONS, gate=gate, code=code))
