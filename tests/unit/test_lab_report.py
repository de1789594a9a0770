"""Laws of reports: one file that needs nothing else, says what is so, and trusts no name."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest
from simulator.records import MacUsed
from simulator.report import charts, words
from simulator.report import page as pages
from simulator.report.comparison_page import differences_plot, said_of
from simulator.report.plots_of import measure_plot
from simulator.report.scale import Scale, linear, logarithmic, short, steps, with_half
from simulator.report.svg import Axis, Range, Series, bars, heat, lines, ranges
from simulator.results.columns import Requests
from simulator.runs.comparison import METRICS

VOID = {"meta", "line", "polyline", "circle", "rect", "br"}


class Balanced(HTMLParser):
    """Whether every element that opens is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def is_balanced(text: str) -> bool:
    parser = Balanced()
    parser.feed(text)
    return not parser.open


numbers = st.floats(-1e30, 1e30) | st.floats(-100, 100) | st.floats(0, 1e-9)


@given(numbers, numbers)
def test_an_axis_holds_what_is_drawn_and_its_ticks_are_round(low: float, high: float) -> None:
    """Whatever the range: a few ticks in order, ends that enclose it, places between the ends."""
    scale = linear(min(low, high), max(low, high), 50.0, 450.0)
    slack = 1e-6 * (scale.high - scale.low)

    assert scale.low - slack <= min(low, high)
    assert scale.high + slack >= max(low, high)
    assert 2 <= len(scale.ticks) <= 12
    assert scale.ticks == sorted(scale.ticks)
    assert all(50.0 <= scale(value) <= 450.0 for value in (low, high, math.inf, -math.inf))


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_a_logarithmic_axis_has_at_least_a_decade(low: float, high: float) -> None:
    """Also where everything is the same, and ticks stay within it."""
    scale = logarithmic(min(low, high), max(low, high), 0.0, 100.0)

    assert scale.high / scale.low >= 10 * (1 - 1e-9)
    assert scale.ticks
    assert all(scale.low * 0.99 <= tick <= scale.high * 1.01 for tick in scale.ticks)


def test_ticks_are_what_a_person_would_choose() -> None:
    """Twenties up to a hundred; ones, twos and fives where a logarithm has room."""
    assert steps(0.0, 100.0) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert Scale(0.1, 10.0, 0, 1, log=True).ticks == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.3812, "s", "381 ms"), (1.2345, "s", "1.23 s"), (0.0, "s", "0 s"), (None, "s", "—"),
        (math.nan, "", "—"), (12_345.0, "", "12.3k"), (1_234.0, "", "1230"), (98.76, "%", "98.8 %"),
        (0.0000153, "$", "$0.0000153"), (2.5e9, "", "2.5G"), (3.0, "×", "3 ×"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_they_are_read(value: float | None, unit: str, words: str) -> None:
    """Three digits, the unit behind it, never an exponent, a dash for what is unknown."""
    assert short(value, unit) == words


def test_a_mean_and_its_interval_have_one_unit() -> None:
    """Milliseconds for both or seconds for both; no interval, no sign of one."""
    assert with_half(0.5, 0.4, 0.6, "s") == "500 ± 100 ms"
    assert with_half(2.0, 1.5, 2.5, "s") == "2.00 ± 0.50 s"
    assert with_half(18.3, -4.1, 40.7, "s") == "18.3 [0, 40.7] s"
    assert with_half(2.0, None, None, "s") == "2 s"


@pytest.mark.parametrize(
    ("mean", "half", "unit", "words"),
    [
        (82.0, 0.287, "%", "82.00 ± 0.29 %"),
        (0.0148, 0.0000517, "req/s", "0.014800 ± 0.000052 req/s"),
        (1_234.4, 47.2, "tok/s", "1234 ± 47 tok/s"),
        (1_234.4, 147.2, "tok/s", "1230 ± 150 tok/s"),
        (12_345.0, 678.0, "tok/s", "12.35k ± 0.68k tok/s"),
        (12_345.0, 2_678.0, "tok/s", "12.3k ± 2.7k tok/s"),
        (999.96, 9.96, "ms", "1000 ± 10 ms"),
        (2.5, 0.0, "×", "2.5 ± 0 ×"),
        (0.0, 0.0, "%", "0 ± 0 %"),
        (82.0, 1e-12, "%", "82 ± 0 %"),
        (1.23456789, 0.0000123, "$", "1.23457 ± 0.00001 $"),
    ],
)
def test_a_mean_has_the_digits_of_its_interval(
    mean: float, half: float, unit: str, words: str
) -> None:
    """Two digits of how unsure a number is, and of the number as many as that leaves."""
    assert with_half(mean, mean - half, mean + half, unit) == words


@pytest.mark.parametrize(
    ("mean", "low", "high", "unit", "words"),
    [
        (93.3, 68.9, 117.7, "%", "93.3 [68.9, 100] %"),
        (50.0, -20.0, 120.0, "%", "50 [0, 100] %"),
        (2.0, -2.5, 6.5, "req/s", "2 [0, 6.5] req/s"),
        (100.0, 100.0, 100.0, "%", "100 ± 0 %"),
        (110.0, 100.0, 120.0, "tok/s", "110 ± 10 tok/s"),
    ],
)
def test_an_interval_ends_where_the_number_does(
    mean: float, low: float, high: float, unit: str, words: str
) -> None:
    """No share is above the whole, and nothing that is compared is below zero."""
    assert with_half(mean, low, high, unit) == words


@given(st.floats(0, 1e12), st.floats(0, 1e12), st.sampled_from(["s", "%", "req/s", "$", ""]))
def test_whatever_the_interval_it_has_a_short_name(mean: float, half: float, unit: str) -> None:
    """No exponent, no nan, and no more than a cell holds."""
    words = with_half(mean, mean - half, mean + half, unit)

    assert len(words) <= 42
    assert not re.search(r"\de[+-]|nan|inf", words)


HOSTILE = '<script>alert("x")</script> & "quoted"'


def every_plot(name: str) -> list[str]:
    axis = Axis(name, "s")
    return [
        lines(name, [Series(name, [(1.0, 2.0), (2.0, math.nan)], [1.0], [3.0])], axis, axis,
              dots=True),
        bars(name, [(name, 1.0), ("b", math.nan)], axis),
        heat(name, [(name, [0.0, 1.0])], axis, lambda value: f"{name} {value}"),
        ranges(name, [Range(name, 1.0, None, None), Range("b", 1.0, 0.5, 2.0)], axis),
        pages.plot(name, name, "", [name, name], pages.table(name, [name], [[name, name]])),
        pages.cards([(name, name)]), pages.head(name, name), pages.folded(name, name),
        pages.section(name, pages.paragraph(name)), pages.page(name, [name.replace("<", "")]),
    ]  # fmt: skip


def test_no_name_becomes_markup() -> None:
    """Titles, rows, tips and cells are text, whatever is in them."""
    for text in every_plot(HOSTILE):
        assert "<script" not in text
        assert is_balanced(text)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5))
def test_no_number_breaks_a_plot(values: list[float]) -> None:
    """Empty, infinite and unknown values give a picture without nan in it."""
    points = [(float(n), value) for n, value in enumerate(values)]

    for text in (
        lines("t", [Series("s", points)], Axis("x"), Axis("y")),
        lines("t", [Series("s", [(v, n) for n, v in points])], Axis("x", log=True), Axis("y")),
        bars("t", [("r", value) for value in values], Axis("x")),
    ):
        assert is_balanced(text)
        assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_a_page_needs_nothing_from_elsewhere() -> None:
    """No script, no address, no import; light and dark; the colours of the text are there."""
    text = pages.page("title", [pages.plot("a", "b", "", ["c", "d"], "")])

    assert not re.search(r"<script|<link|<img|https?://|@import|url\(", text)
    assert "color-scheme: light dark" in text
    assert 'name="viewport"' in text


def luminance(colour: str) -> float:
    """As WCAG has it."""
    colour = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear_parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear_parts[0] + 0.7152 * linear_parts[1] + 0.0722 * linear_parts[2]


@pytest.mark.parametrize("mode", [0, 1])
def test_what_is_written_can_be_read(mode: int) -> None:
    """Text has a contrast of 4.5 on both grounds, curves of 3; by day and by night."""
    colours = {
        name: (day, night)[mode]
        for name, day, night in re.findall(
            r"--([\w]+): light-dark\((#\w+), (#\w+)\)", pages.style()
        )
    }
    for name, least in {
        "ink": 4.5, "soft": 4.5, "good": 4.5, "bad": 4.5, **{f"c{n}": 3.0 for n in range(8)}
    }.items():  # fmt: skip
        for ground in ("ground", "card"):
            light, dark = sorted((luminance(colours[name]), luminance(colours[ground])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= least, (name, ground)


def swept() -> dict[str, object]:
    def numbers_at(mean: float) -> dict[str, object]:
        return {"ttft_s.p99": {"mean": mean, "low": mean - 1, "high": mean + 1}}

    return {
        "policies": ["ours", "theirs"],
        "points": [
            {
                "settings": {"rho": rho, "kind": kind},
                "policies": {"ours": numbers_at(5.0), "theirs": numbers_at(7.0)},
            }
            for rho in ("0.5", "0.9")
            for kind in ("poisson", "gamma")
        ],
    }


def test_a_plot_has_a_curve_per_what_was_asked() -> None:
    """By policy each combination of the others is a curve; names that are not there are told."""
    text = measure_plot(swept(), "rho", "ttft_s.p99")

    assert "ours, kind=poisson" in text
    assert "theirs, kind=gamma" in text
    assert is_balanced(text)
    for x, y, by in (("x", "ttft_s.p99", "policy"), ("rho", "nope", "policy"),
                     ("rho", "ttft_s.p99", "nope"), ("kind", "nope", "policy")):  # fmt: skip
        with pytest.raises(InvalidRequest, match="there are"):
            measure_plot(swept(), x, y, by)


def test_what_is_drawn_ends_where_the_number_does() -> None:
    """On axes and in the tables behind them as well: no share of 120 %, no rate below zero."""
    levels = {
        "goodput.attainment": {"mean": 0.95, "low": 0.7, "high": 1.2},
        "goodput.requests_per_s": {"mean": 2.0, "low": -2.5, "high": 6.5},
    }
    summary = {
        "policies": ["ours"],
        "points": [
            {"settings": {"rho": rho, "kind": kind}, "policies": {"ours": levels}}
            for rho, kind in (("0.5", "poisson"), ("0.9", "gamma"))
        ],
    }

    for x in ("rho", "kind"):
        share = measure_plot(summary, x, "goodput.attainment")
        rate = measure_plot(summary, x, "goodput.requests_per_s")
        assert "100 %" in share
        assert "120" not in share
        assert "-2" not in re.sub(r'="[^"]*"', "", rate)


def test_a_difference_of_more_than_all_is_none() -> None:
    """What cannot be negative can lose all of itself, and no more."""
    relative = {"mean": -0.333, "low": -1.74, "high": 1.078}
    found = {"relative": relative, "verdict": "not told apart"}

    text = differences_plot("ours", "theirs", {"e2e_s.mean": found})

    assert said_of(found) == "-33.3 % [-100.0, +107.8] not told apart"
    assert "-174" not in text
    assert "-100 %" in text


def test_the_busiest_is_not_called_dark() -> None:
    """By night the most is the brightest: what is said of a colour holds on both grounds."""
    mac = MacUsed(name="m", chip="M1", memory_gb=8, ask_pct=100)
    text = charts.load(Requests.of([]), [mac], 60.0)

    assert "The strongest colour is 0 requests at a time." in text
    assert "dark" not in text


def test_a_setting_that_is_no_number_has_a_row_for_each_value() -> None:
    """By its own name, or by a number that is explained where the name has no room."""
    text = measure_plot(swept(), "kind", "ttft_s.p99")
    assert "ours, poisson, rho=0.5" in text
    assert "theirs, gamma, rho=0.9" in text
    assert is_balanced(text)

    long = swept()
    for point in long["points"]:  # type: ignore[attr-defined]
        point["settings"]["kind"] = f"[{{ chip = '{point['settings']['kind']}' }}]"
    text = measure_plot(long, "kind", "ttft_s.p99")
    assert "ours, no. 2, rho=0.9" in text
    assert "no. 2 is [{ chip = &#x27;gamma&#x27; }]" in text


def test_every_metric_is_of_a_summary() -> None:
    """A metric's name leads to a number, its label is told once."""
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert all("." in name for name in METRICS)


def test_words_are_of_what_they_count() -> None:
    """One is no plural, a short run lasts seconds, a share is told in per cent with its causes."""
    alarm = {
        "name": "refusals",
        "value": 1.0,
        "limit": 0.05,
        "words": "of the requests were refused",
    }

    assert [words.counted(1, "request"), words.counted(2_000, "Mac")] == ["1 request", "2,000 Macs"]
    assert [words.lasted(8.0), words.lasted(600.0)] == ["8 seconds", "10 minutes"]
    assert words.alarm_words(alarm, {"no_mac": 2, "queue_full": 40}) == (
        "100 % of the requests were refused (limit 5 %): queue_full 40, no_mac 2"
    )
