"""What was used, by model and by time, as everybody may see it. Pure.

Macs' work is what is added up, so that private Macs can be left out; accounts that used it are
only counted, where a market tells of no group of fewer than `k`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from market.accounting.rollups import DAY_S, HOUR_S, Work
from market.accounting.statistics import Worked
from market.catalogue import Catalogue
from market.public.epochs import Epoch
from market.public.ranking import dense_ranks, shares
from market.public.suppression import withheld
from market.types import ModelId
from serve_app.schemas_public import (
    AnalyticsBucket,
    AnalyticsModel,
    AnalyticsTotals,
    AnalyticsTrend,
    NetworkAnalytics,
)
from serve_app.views import stamp
from serve_app.views_public import added, by_start

HOURS = 24
WEEK_DAYS = 7
MONTH_DAYS = 30
TOP_MODELS = 15


@dataclass(frozen=True, slots=True)
class Consumers:
    """How many accounts used a model, or anything in an hour or a day; by its start.

    Not asked for, and so empty, where a group may be of one account.
    """

    models: Mapping[ModelId, int]
    days: Mapping[int, int]
    hours: Mapping[int, int]
    everyone: int


NOBODY_COUNTED = Consumers({}, {}, {}, 0)


def day_starts(end_s: int) -> range:
    """The days that are told of, the one of the snapshot last."""
    last_s = (end_s - 1) - (end_s - 1) % DAY_S
    return range(last_s - (MONTH_DAYS - 1) * DAY_S, last_s + 1, DAY_S)


def hour_starts(end_s: int) -> range:
    """The hours that are told of, the one of the snapshot last."""
    last_s = (end_s - 1) - (end_s - 1) % HOUR_S
    return range(last_s - (HOURS - 1) * HOUR_S, last_s + 1, HOUR_S)


def analytics(
    epoch: Epoch,
    days: Sequence[Worked],
    hours: Sequence[Worked],
    catalogue: Catalogue,
    consumers: Consumers,
    k: int,
) -> NetworkAnalytics:
    """`days` are told by model and day, `hours` by hour."""
    whole = added(days)
    told = k <= 1 or consumers.everyone >= k or not days
    hidden = _hidden_days(epoch, days, consumers, k)
    daily = _day_buckets(epoch, days, hidden)
    return NetworkAnalytics(
        generated_at=_to_the_millisecond(epoch.end_s),
        totals=AnalyticsTotals(
            tokens=whole.tokens if told else None,
            requests=whole.requests if told else None,
            prompt_tokens=whole.prompt_tokens if told else None,
            completion_tokens=whole.completion_tokens if told else None,
            cached_tokens=whole.cached_tokens if told else None,
            reasoning_tokens=whole.reasoning_tokens if told else None,
        ),
        top_models=_top_models(days, whole, catalogue, consumers, k),
        trend=AnalyticsTrend.model_validate(
            {
                "24h": _hour_buckets(epoch, hours, days, hidden, consumers, k),
                "7d": daily[-WEEK_DAYS:],
                "30d": daily,
            }
        ),
    )


def no_analytics() -> NetworkAnalytics:
    """What is told before the first snapshot: that there is none yet."""
    unknown = dict.fromkeys(AnalyticsTotals.model_fields)
    return NetworkAnalytics(
        generated_at=None,
        totals=AnalyticsTotals(**unknown),
        top_models=[],
        trend=AnalyticsTrend.model_validate({"24h": [], "7d": [], "30d": []}),
    )


def _top_models(
    figures: Sequence[Worked], whole: Work, catalogue: Catalogue, consumers: Consumers, k: int
) -> list[AnalyticsModel]:
    """The largest ones. Those that are not told of come last, without rank or size."""
    sizes: dict[ModelId, Work] = {}
    for model in {figure.model for figure in figures}:
        sizes[model] = added([figure for figure in figures if figure.model == model])
    models = sorted(sizes)
    counts = [consumers.models.get(model, 0) if k > 1 else 1 for model in models]
    hidden = {models[at] for at in _withheld_groups(counts, k)}
    open_ = sorted(
        (model for model in models if model not in hidden),
        key=lambda model: (-sizes[model].tokens, model),
    )[:TOP_MODELS]
    ranks = dense_ranks([sizes[model].tokens for model in open_])
    parts = shares([sizes[model].tokens for model in open_], whole.tokens)
    entries = [
        _model(catalogue, model, rank, sizes[model], share)
        for model, rank, share in zip(open_, ranks, parts, strict=True)
    ]
    rest = sorted(hidden)[: TOP_MODELS - len(entries)]
    return entries + [_model(catalogue, model, None, None, None) for model in rest]


def _withheld_groups(counts: Sequence[int], k: int) -> frozenset[int]:
    """As `withheld`, but something was used in each of these: a count of 0 is too few as well."""
    return withheld([max(count, 1) for count in counts], k)


def _model(
    catalogue: Catalogue, model: ModelId, rank: int | None, work: Work | None, share: float | None
) -> AnalyticsModel:
    card = catalogue.cards.get(model)
    return AnalyticsModel(
        model_id=model,
        model_name=card.name if card is not None else model,
        provider=card.publisher if card is not None else "",
        rank=rank,
        tokens=work.tokens if work is not None else None,
        requests=work.requests if work is not None else None,
        share=share,
    )


def _hidden_days(
    epoch: Epoch, figures: Sequence[Worked], consumers: Consumers, k: int
) -> frozenset[int]:
    """By their starts. Days add up to the totals."""
    starts, by_day = day_starts(epoch.end_s), by_start(figures)
    counts = [_accounts(by_day.get(start), consumers.days.get(start, 0), k) for start in starts]
    return frozenset(starts[at] for at in withheld(counts, k))


def _day_buckets(
    epoch: Epoch, figures: Sequence[Worked], hidden: frozenset[int]
) -> list[AnalyticsBucket]:
    by_day = by_start(figures)
    return [
        _bucket(_date(start), by_day.get(start, []), told=start not in hidden)
        for start in day_starts(epoch.end_s)
    ]


def _hour_buckets(
    epoch: Epoch,
    figures: Sequence[Worked],
    days: Sequence[Worked],
    hidden_days: frozenset[int],
    consumers: Consumers,
    k: int,
) -> list[AnalyticsBucket]:
    """Hours add up to their day, so they are withheld among those of one day; all where it is."""
    by_hour, by_day = by_start(figures), by_start(days)
    hidden: set[int] = set()
    for day in day_starts(epoch.end_s)[-2:]:
        starts = [start for start in hour_starts(epoch.end_s) if start // DAY_S == day // DAY_S]
        used = [by_hour.get(start, []) for start in starts]
        counts = [
            _accounts(found, consumers.hours.get(start, 0), k)
            for start, found in zip(starts, used, strict=True)
        ]
        if day in hidden_days:
            hidden |= {start for start, count in zip(starts, counts, strict=True) if count}
            continue
        # Yesterday's first hours are not shown: what they were is the day less the other hours.
        shown = sum(added(found).requests for found in used)
        rest = int(added(by_day.get(day, [])).requests > shown)
        hidden |= {starts[at] for at in withheld([*counts, rest], k) if at < len(starts)}
    return [
        _bucket(f"{_date(start)} {start % DAY_S // HOUR_S:02}:00", by_hour.get(start, []),
                told=start not in hidden)
        for start in hour_starts(epoch.end_s)
    ]  # fmt: skip


def _accounts(figures: Sequence[Worked] | None, counted: int, k: int) -> int:
    """Of how many accounts a bucket is: 0 only where nothing happened."""
    if not figures:
        return 0
    return max(counted, 1) if k > 1 else 1


def _bucket(name: str, figures: Sequence[Worked], *, told: bool) -> AnalyticsBucket:
    work = added(figures)
    return AnalyticsBucket(
        bucket=name,
        tokens=work.tokens if told else None,
        requests=work.requests if told else None,
    )


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _to_the_millisecond(seconds: int) -> str:
    return stamp(seconds).removesuffix("Z") + ".000Z"
