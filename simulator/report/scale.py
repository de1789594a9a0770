"""From numbers to places: scales with ticks that a person would have chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TICKS_WANTED: Final = 5
DRAWN_MAX: Final = 1e30
"""What is larger, or infinite, or unknown, is not drawn; on a logarithmic axis nor what is
smaller than one over it."""
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers from `low` to `high` onto pixels; logarithmic where `log`."""

    low: float
    high: float
    first_px: float
    last_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.first_px + min(max(share, 0.0), 1.0) * (self.last_px - self.first_px)

    @property
    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else steps(self.low, self.high)


def drawn(value: float, *, log: bool = False) -> bool:
    """Whether a number has a place on an axis."""
    least = 1 / DRAWN_MAX if log else -DRAWN_MAX
    return least <= value <= DRAWN_MAX


def linear(low: float, high: float, first_px: float, last_px: float) -> Scale:
    """A scale whose ends are ticks."""
    size = max(abs(low), abs(high))
    if size < 1 / DRAWN_MAX:
        low, high = 0.0, max(high, 1.0)
    elif high - low < 1e-9 * size:  # all the same but for rounding
        high = low + size
    step = _step(low, high)
    return Scale(
        math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step,
        first_px, last_px,
    )  # fmt: skip


def logarithmic(low: float, high: float, first_px: float, last_px: float) -> Scale:
    """A scale over at least one decade; what is not positive lies at its beginning."""
    low = low if low > 0 else 1e-3
    high = max(high, low)
    if high / low < 10:
        middle = math.sqrt(high * low)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    return Scale(low, high, first_px, last_px, log=True)


def steps(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five."""
    step = _step(low, high)
    count = round((high - low) / step)
    first = math.ceil(low / step - 1e-9)
    return [(first + number) * step for number in range(count + 1)
            if (first + number) * step <= high + step * 1e-6]  # fmt: skip


def decades(low: float, high: float) -> list[float]:
    """Powers of ten, with twos and fives in between where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
    every = max((last - first) // 7, 1)
    found = [part * 10.0**power for power in range(first, last + 1, every) for part in parts]
    return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def _step(low: float, high: float) -> float:
    rough = (high - low) / TICKS_WANTED
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in _STEPS if power * step >= rough * (1 - 1e-9))


def short(value: float | None, unit: str = "") -> str:
    """A number as it is read: three digits, a suffix for thousands; seconds below one in ms."""
    if value is None or not math.isfinite(value):
        return "—"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{_digits(value * 1e3)} ms"
    if unit == "$":
        return f"${_digits(value)}"
    if unit == "%":
        return f"{_digits(value)} %"
    return f"{_digits(value)} {unit}".rstrip()


def with_half(mean: float | None, low: float | None, high: float | None, unit: str) -> str:
    """`1.23 ± 0.04 s`: a mean of what cannot be negative and half of its interval, in one unit.
    Where that would reach below zero, `18.3 [0, 40.7] s`.
    """
    if mean is None or low is None or high is None:
        return short(mean, unit)
    half = (high - low) / 2
    if unit == "s" and 0 < abs(mean) < 1:
        mean, half, unit = mean * 1e3, half * 1e3, "ms"
    if half > mean >= 0:
        return f"{_digits(mean)} [0, {_digits(mean + half)}] {unit}".rstrip()
    return f"{_digits(mean)} ± {_digits(half)} {unit}".rstrip()


def _digits(value: float) -> str:
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            divided = {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return f"{float(f'{value / divided:.3g}'):g}{suffix}"
    if 0 < size < 1e-3:  # never with an exponent
        return (
            f"{value:.9f}".rstrip("0")
            if size < 1e-6
            else f"{float(f'{value:.3g}'):.8f}".rstrip("0")
        )
    return f"{float(f'{value:.3g}'):.10g}"
