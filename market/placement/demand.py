"""How much of each model consumers ask for, from the requests that come.

Windows as long as a request is prepared to wait, weighed by age: what is shorter is the queue's
business, what lasts is the planner's. Their mean is the demand, and their spread says how far
above it to plan: published traces vary 1.4 to 164 times as much as chance alone, so planning for
the mean, or for Poisson, would plan for too little.

A request costs two additions and a comparison; windows without requests cost nothing until asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, sqrt

from market.placement.work import Mix, cost_tokens
from market.types import ModelId

WINDOW_S = 30.0
"""The deadline of a request that waits: a burst is served from the queue if it is shorter."""

HALF_LIFE_S = 600.0
"""Age at which a window counts half. Managers that smoothed over twenty minutes earned as much as
those that followed each minute, with a third to a fifth of the swaps (research on Darkbloom)."""

SAFETY_DEVIATIONS = 1.65
"""Plan for what 95 windows of 100 stay below."""

PRIOR_WINDOWS = 4.0
PRIOR_DISPERSION = 4.0
"""Until spread has been seen: four windows of a chat trace at half a minute."""

PRIOR_MIX = Mix(512.0, 128.0)
PRIOR_REQUESTS = 2.0
"""What requests are taken for before any has come, and how many that guess counts for."""

MODELS_MAX = 1024
"""Models remembered; the one asked for longest ago goes first."""

_FADE = 2.0 ** (-WINDOW_S / HALF_LIFE_S)


@dataclass(frozen=True, slots=True)
class Offered:
    """What is asked of one model. Rates in cost tokens/s.

    `high` is the rate to plan for; the mean alone once nothing has come for a half-life, because
    the spread of old bursts fades more slowly than they do. `dispersion` is the spread of requests
    per window, 1 where they come by chance alone. `quiet_s` is how long ago the last one came,
    `lately` the mean of the last window and the present one; infinite where that is not known.
    """

    mean: float = 0.0
    high: float = 0.0
    dispersion: float = PRIOR_DISPERSION
    mix: Mix = PRIOR_MIX
    quiet_s: float = inf
    lately: float = inf


class _Windows:
    """One model's windows: the open one, and the fading sums of those before."""

    __slots__ = (
        "closes_s",
        "completion",
        "completion_sum",
        "count",
        "count_sum",
        "last_s",
        "last_work",
        "prompt",
        "prompt_sum",
        "square_sum",
        "weight",
    )

    def __init__(self, now_s: float) -> None:
        self.closes_s = now_s + WINDOW_S
        self.last_s = -inf
        self.count = self.prompt = self.completion = 0.0
        self.weight = self.count_sum = self.prompt_sum = self.completion_sum = 0.0
        self.square_sum = 0.0
        self.last_work = 0.0  # of the window before the open one, cost tokens

    def roll(self, now_s: float) -> None:
        """Close the window that has ended, and the empty ones since."""
        empty = int((now_s - self.closes_s) // WINDOW_S)
        work = cost_tokens(self.prompt, self.completion)
        fade = _FADE**empty
        self.last_work = 0.0 if empty else work
        self.weight = (self.weight * _FADE + 1.0) * fade + (1.0 - fade) / (1.0 - _FADE)
        self.count_sum = (self.count_sum * _FADE + self.count) * fade
        self.prompt_sum = (self.prompt_sum * _FADE + self.prompt) * fade
        self.completion_sum = (self.completion_sum * _FADE + self.completion) * fade
        self.square_sum = (self.square_sum * _FADE + work * work) * fade
        self.count = self.prompt = self.completion = 0.0
        self.closes_s += (empty + 1) * WINDOW_S

    def offered(self, now_s: float) -> Offered:
        if now_s >= self.closes_s:
            self.roll(now_s)
        open_share = 1.0 - (self.closes_s - now_s) / WINDOW_S
        windows = max(self.weight + open_share, 1.0)
        requests = self.count_sum + self.count
        prompt, completion = self.prompt_sum + self.prompt, self.completion_sum + self.completion
        mix = Mix(
            (PRIOR_MIX.prompt_tokens * PRIOR_REQUESTS + prompt) / (PRIOR_REQUESTS + requests),
            (PRIOR_MIX.completion_tokens * PRIOR_REQUESTS + completion)
            / (PRIOR_REQUESTS + requests),
        )
        mean = cost_tokens(prompt, completion) / windows  # a window
        by_chance = mean * (mean * windows / requests if requests > 0 else mix.cost)
        variance = self._variance(PRIOR_DISPERSION * by_chance)
        quiet_s = now_s - self.last_s
        margin = SAFETY_DEVIATIONS * sqrt(variance) if quiet_s < HALF_LIFE_S else 0.0
        return Offered(
            mean=mean / WINDOW_S,
            high=(mean + margin) / WINDOW_S,
            dispersion=variance / by_chance if by_chance > 0 else PRIOR_DISPERSION,
            mix=mix,
            quiet_s=quiet_s,
            lately=self._lately(open_share),
        )

    def _lately(self, open_share: float) -> float:
        work = self.last_work + cost_tokens(self.prompt, self.completion)
        return work / (WINDOW_S * (1.0 + open_share))

    def _variance(self, prior: float) -> float:
        """Of the work in a window; the prior counts as a few windows."""
        seen = 0.0
        if self.weight > 0:
            mean = cost_tokens(self.prompt_sum, self.completion_sum) / self.weight
            seen = max(self.square_sum / self.weight - mean * mean, 0.0)
        return (seen * self.weight + prior * PRIOR_WINDOWS) / (self.weight + PRIOR_WINDOWS)


class Demand:
    """Of every model that anybody asked for."""

    def __init__(self) -> None:
        self._models: dict[ModelId, _Windows] = {}

    def arrived(
        self, model: ModelId, prompt_tokens: float, completion_tokens: float, now_s: float
    ) -> None:
        """A request has come; `completion_tokens` is what it is expected to say in all."""
        windows = self._models.get(model)
        if windows is None:
            windows = self._begin(model, now_s)
        if now_s >= windows.closes_s:
            windows.roll(now_s)
        windows.count += 1.0
        windows.prompt += prompt_tokens
        windows.completion += completion_tokens
        windows.last_s = now_s

    def _begin(self, model: ModelId, now_s: float) -> _Windows:
        if len(self._models) >= MODELS_MAX:
            quietest = min(self._models, key=lambda known: (self._models[known].last_s, known))
            del self._models[quietest]
        windows = self._models[model] = _Windows(now_s)
        return windows

    def offered(self, model: ModelId, now_s: float) -> Offered:
        """What is asked of one model; nothing of one that nobody asked for."""
        windows = self._models.get(model)
        return windows.offered(now_s) if windows is not None else Offered(lately=0.0)

    def keep(self, models: Iterable[ModelId]) -> None:
        """Forget the models that are no longer offered."""
        offered = set(models)
        self._models = {model: w for model, w in self._models.items() if model in offered}
