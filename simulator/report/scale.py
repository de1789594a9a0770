"""From numbers to places: scales with ticks that a person would have chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TICKS_WANTED: Final = 5
DRAWN_MAX: Final = 1e30
"""What is larger, or infinite, or unknown, is not drawn; on a logarithmic axis nor what is
smaller than one over it."""
WHOLE: Final = 100.0
"""Per cent."""
MEAN_DIGITS: Final = 6
DECIMALS_MAX: Final = 9
"""Of a mean beside its interval: what is sure to more digits than that is not read so far."""
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
    """`1.23 ± 0.04 s`: a mean of what cannot be negative and half of its interval, in one unit and
    to the same digit. Where that would reach beyond what can be, `18.3 [0, 40.7] s`.
    """
    if mean is None or low is None or high is None:
        return short(mean, unit)
    half = (high - low) / 2
    cut = half > mean or (unit == "%" and mean + half > WHOLE * (1 + 1e-9))
    low, high = within(low, unit), within(high, unit)
    if unit == "s" and 0 < abs(mean) < 1:
        mean, half, low, high, unit = mean * 1e3, half * 1e3, low * 1e3, high * 1e3, "ms"
    if cut:
        return f"{_digits(mean)} [{_digits(low)}, {_digits(high)}] {unit}".rstrip()
    return f"{_alike(mean, half)} {unit}".rstrip()


def within(end: float, unit: str) -> float:
    """An end of an interval, where numbers of this unit can be: none that is compared is below
    zero, and no share above the whole.
    """
    return min(max(end, 0.0), WHOLE if unit == "%" else math.inf)


def _alike(mean: float, half: float) -> str:
    """Two digits of the half, and the mean to the last of them; of the mean at most six."""
    suffix, divisor = _thousands(mean)
    mean, half = mean / divisor, half / divisor
    last = max(_power(half) - 1, _power(mean) - MEAN_DIGITS + 1, -DECIMALS_MAX)
    if round(half, -last) == 0:
        return f"{_digits(mean)}{suffix} ± 0"
    decimals = max(-last, 0)
    return " ± ".join(f"{round(value, -last):.{decimals}f}{suffix}" for value in (mean, half))


def _power(value: float) -> int:
    """Of ten, of the first of two digits; 9.96 has that of 10."""
    return int(f"{value:.1e}".partition("e")[2])


def _thousands(value: float) -> tuple[str, float]:
    """What a large number is written in."""
    for limit, suffix, divisor in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)):
        if abs(value) >= limit:
            return suffix, divisor
    return "", 1.0


def _digits(value: float) -> str:
    suffix, divisor = _thousands(value)
    if suffix:
        return f"{float(f'{value / divisor:.3g}'):g}{suffix}"
    size = abs(value)
    if 0 < size < 1e-3:  # never with an exponent
        text = f"{value:.9f}" if size < 1e-6 else f"{float(f'{value:.3g}'):.8f}"
        return text.rstrip("0").rstrip(".")
    return f"{float(f'{value:.3g}'):.10g}"
