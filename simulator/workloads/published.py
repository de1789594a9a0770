"""Published traces as distributions: what was measured of them, not the traces themselves.

Quantiles at 10, 25, 50, 75, 90, 95 and 99 % are the traces' own, computed from their public
snapshots. The ends are not published: 0.1 % and 99.99 % are chosen so that the mean is right to
4 %, and where only a few quantiles are known the inner ones are too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from simulator.workloads.intensity import OnOff
from simulator.workloads.laws import Quantiles, quantiles

SHARES: Final = (0.001, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.9999)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How its arrivals come: gaps of a Gamma law under an intensity that has two states. Both
    are fitted to the measured index of dispersion over seconds and minutes.
    """

    rate_per_s: float
    gap_cv: float
    states: OnOff | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """One trace. Means in tokens; `correlation` is that of the logarithms of both lengths."""

    source: str
    prompt_mean: float
    output_mean: float
    prompt: Quantiles
    output: Quantiles
    correlation: float = 0.0
    rhythm: Rhythm | None = None


def _of(*tokens: float, shares: Sequence[float] = SHARES) -> Quantiles:
    return quantiles(list(zip(shares, tokens, strict=True)))


PUBLISHED: Final = MappingProxyType(
    {
        "azure_2023_conv": Published(
            source="Azure LLM inference trace 2023, conversation: 19,366 requests in 58 minutes",
            prompt_mean=1155,
            output_mean=211,
            prompt=_of(100, 207, 396, 1020, 1189, 2735, 4083, 4142, 14_050),
            output=_of(34, 54, 85, 129, 395, 424, 451, 601, 1_200),
            correlation=0.09,
            # Index of dispersion 1.4, 3.9 and 16 in 1, 10 and 60 s: single gaps are nearly
            # Poisson, the intensity wanders by a fifth over minutes.
            rhythm=Rhythm(5.53, 1.09, OnOff(400, 400, 1.57)),
        ),
        "azure_2023_code": Published(
            source="Azure LLM inference trace 2023, code: 8,819 requests in 57 minutes",
            prompt_mean=2048,
            output_mean=27.9,
            prompt=_of(37, 147, 578, 1469, 2745, 5194, 7315, 7436, 11_000),
            output=_of(5, 7, 9, 13, 24, 55, 90, 252, 1_900),
            # Index of dispersion 13, 72 and 164: bursts of ten seconds. The gaps' measured CV
            # is 13.2; a renewal process of that would put whole bursts into one moment.
            rhythm=Rhythm(2.57, 1.73, OnOff(11.8, 66, 30)),
        ),
        "arxiv_summarisation": Published(
            source="arXiv summarisation: 28,257 requests, lengths only",
            prompt_mean=2588,
            output_mean=291,
            prompt=_of(400, 1242, 1986, 2730, 3370, 3702, 3813, 3934, 4_050),
            output=_of(53, 78, 115, 167, 242, 372, 737, 3273, 13_000),
            correlation=-0.48,
        ),
        "mooncake_conversation": Published(
            source="Mooncake (Kimi), conversation: 12,031 requests in 59 minutes",
            prompt_mean=12_035,
            output_mean=343,
            prompt=_of(400, 964, 2306, 6909, 15_368, 27_367, 39_552, 85_401, 128_000),
            output=_of(4, 24, 156, 350, 472, 597, 698, 1120, 2_000),
            # Index of dispersion 2.9 in 60 s.
            rhythm=Rhythm(3.40, 1.0, OnOff(400, 400, 1.22)),
        ),
        "mooncake_synthetic": Published(
            source="Mooncake (Kimi), synthetic: 3,993 requests; quantiles 50 and 99 % known",
            prompt_mean=15_325,
            output_mean=149,
            prompt=_of(1_000, 11_587, 66_458, 128_000, shares=(0.001, 0.5, 0.99, 0.9999)),
            output=_of(
                *(4, 20, 69, 220, 380, 769, 1_500),
                shares=(0.001, 0.2, 0.5, 0.75, 0.9, 0.99, 0.9999),
            ),
            rhythm=Rhythm(3.91, 1.0),
        ),
    }
)  # fmt: skip
"""By the name that a workload gives: `prompt = { table = "azure_2023_conv" }`."""
