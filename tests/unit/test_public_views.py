"""Public bodies from sums: nothing invented, nothing that is not there, and it adds up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from market.accounting.rollups import DAY_S, HOUR_S, Work
from market.accounting.statistics import Worked
from market.catalogue import DEMO_MODEL, Catalogue
from market.public.epochs import Epoch
from market.routing.public import PublicFleet, PublicMac
from market.types import AccountId, Hardware, MachineId, ModelId, ProviderId
from serve_app import views_analytics as analytic
from serve_app import views_public as views
from serve_app.schemas_public import NetworkAnalytics

OTHER = ModelId("gone/model")
MODELS = (DEMO_MODEL, ModelId("qwen3.5-7b"), OTHER)
CATALOGUE = Catalogue()
NOON = Epoch(1_772_366_400 // 600, 600)  # 2026-03-01 12:00, the day after a February's end


def work(tokens: int = 10, earned_nano: int = 1_000, jobs: int = 1) -> Work:
    return Work(
        requests=jobs,
        jobs=jobs,
        prompt_tokens=tokens // 2,
        completion_tokens=tokens - tokens // 2,
        cached_tokens=tokens // 4,
        cost_nano=earned_nano,
        earned_nano=earned_nano,
    )


def figure(
    done: Work, start_s: int = 0, model: str = "", machine: str = "", account: str = ""
) -> Worked:
    return Worked(start_s, ModelId(model), MachineId(machine), AccountId(account), done)


def mac(name: str, *models: ModelId, owner: str = "acct_a") -> PublicMac:
    return PublicMac(
        MachineId(f"mac_{name}"), AccountId(owner), ProviderId(f"prv_{name}"),
        Hardware("M2 Ultra", 192, 76, 24, 800.0), "ready", "basic", models, None, 0.0,
    )  # fmt: skip


works = st.builds(work, st.integers(0, 10**9), st.integers(0, 10**12), st.integers(1, 10**6))
accounts = st.lists(st.tuples(st.integers(0, 40), works), unique_by=lambda a: a[0], max_size=30)


# ── stats ────────────────────────────────────────────────────────────────────────────


def test_stats_add_up_macs_and_hardware() -> None:
    """Totals are sums over the Macs that are shown and those that have gone."""
    fleet = PublicFleet((mac("a", DEMO_MODEL), mac("b", DEMO_MODEL, OTHER)), frozenset())
    ever = [figure(work(10, jobs=2), machine="mac_a", account="acct_a"),
            figure(work(7, jobs=1), machine="mac_gone", account="acct_x")]  # fmt: skip
    told = views.stats(Epoch(10**6, 60), fleet, ever, [], 1)

    assert (told.total_requests, told.total_tokens, told.avg_tokens_per_request) == (3, 17, 5.7)
    assert (told.active_providers, told.total_gpu_cores, told.total_memory_gb) == (2, 152, 384)
    assert [(p.id, p.requests_served, p.tokens_generated) for p in told.providers] == [
        ("prv_a", 2, 5),
        ("prv_b", 0, 0),
    ]
    assert [(m.id, m.providers) for m in told.models] == [(DEMO_MODEL, 2), (OTHER, 1)]
    assert (told.providers[0].chip_family, told.providers[0].chip_tier) == ("M2", "Ultra")
    assert told.providers[0].decode_tps is None, "not measured is not zero"


def test_stats_of_an_empty_network_are_zero_and_not_missing() -> None:
    """Nobody there and nothing served: zeros that are true, an average of 0, thirty minutes."""
    told = views.stats(Epoch(10**6, 60), PublicFleet((), frozenset()), [], [], 5)

    assert (told.total_requests, told.avg_tokens_per_request, told.active_providers) == (0, 0.0, 0)
    assert len(told.time_series) == 30
    assert {minute.requests for minute in told.time_series} == {0}


@given(st.integers(10**7, 3 * 10**7), st.sets(st.integers(1, 30)))
def test_thirty_minutes_are_always_there(number: int, busy: set[int]) -> None:
    """The last thirty whole minutes in order, those without requests among them."""
    epoch = Epoch(number, 60)
    minutes = [figure(work(8), epoch.end_s - 60 * ago, account="acct_a") for ago in busy]
    series = views.stats(epoch, PublicFleet((), frozenset()), [], minutes, 1).time_series

    starts = [datetime.fromisoformat(minute.timestamp) for minute in series]
    end = datetime.fromtimestamp(epoch.end_s, UTC)
    assert starts == [end - timedelta(minutes=ago) for ago in range(30, 0, -1)]
    assert {30 - at for at, minute in enumerate(series) if minute.requests} == busy


def test_a_market_of_larger_groups_tells_hardware_and_no_single_macs_work() -> None:
    """With k of 2: the model of one owner and with it the next, one Mac's figures, a minute of
    one account are null; what is of two accounts is told.
    """
    fleet = PublicFleet(
        (mac("a", DEMO_MODEL, owner="acct_a"), mac("b", DEMO_MODEL, OTHER, owner="acct_b")),
        frozenset(),
    )
    ever = [figure(work(), machine=f"mac_{n}", account=f"acct_{n}") for n in ("a", "b")]
    epoch = Epoch(10**6, 60)
    # fmt: off
    minutes = [figure(work(), epoch.end_s - 60, account="acct_a"),
               *(figure(work(), epoch.end_s - 120, account=f"acct_{n}") for n in ("a", "b")),
               *(figure(work(), epoch.end_s - 180, account=f"acct_{n}") for n in "abc")]
    # fmt: on
    told = views.stats(epoch, fleet, ever, minutes, 2)

    assert told.total_requests == 2
    assert {provider.requests_served for provider in told.providers} == {None}
    assert {provider.memory_gb for provider in told.providers} == {192}
    assert [(m.id, m.providers) for m in told.models] == [(DEMO_MODEL, None), (OTHER, None)]
    assert [minute.requests for minute in told.time_series[-3:]] == [3, None, None]
    assert views.stats(epoch, fleet, ever[:1], [], 2).total_requests is None


# ── leaderboard and totals ───────────────────────────────────────────────────────────


@given(accounts, st.sampled_from(["earnings", "tokens", "jobs"]), st.integers(1, 200))
def test_a_leaderboard_ranks_every_account_once(
    owners: list[tuple[int, Work]], metric: views.Metric, limit: int
) -> None:
    """Largest first, ranks dense, ties always in the same order, and no id anywhere."""
    figures = [figure(done, account=f"acct_{number}") for number, done in owners]
    names = {f"acct_{number}": f"Name{number}" for number, _ in owners}
    entries = views.ranked(metric, figures, names)
    board = views.leaderboard(NOON, metric, "7d", entries, limit, 1)

    assert board.entries == entries[:limit]
    assert sorted(entry.pseudonym for entry in entries) == sorted(names.values())
    assert entries == views.ranked(metric, figures[::-1], names)
    sizes = {f"Name{n}": views.size_of(metric, done) for n, done in owners}
    assert [sizes[e.pseudonym] for e in entries] == sorted(sizes.values(), reverse=True)
    assert sorted({entry.rank for entry in entries}) == list(range(1, len(set(sizes.values())) + 1))
    assert "acct_" not in board.model_dump_json()


@given(accounts, st.integers(1, 6))
@example([(0, work(earned_nano=5_000)), (1, work(earned_nano=0)), (2, work(earned_nano=0))], 3)
def test_totals_are_what_the_accounts_add_up_to(owners: list[tuple[int, Work]], k: int) -> None:
    """To the nano-USD before it is shown in micro-USD; nothing of fewer than k accounts,
    and earnings not of fewer that were paid, for they are theirs alone.
    """
    figures = [figure(done, account=f"acct_{number}") for number, done in owners]
    told = views.network_totals(NOON, "30d", figures, k)

    if 0 < len(figures) < k:
        assert (told.earnings_micro_usd, told.tokens, told.jobs, told.active_accounts) == (
            None,
        ) * 4
        return
    paid = [done.earned_nano for _, done in owners if done.earned_nano > 0]
    if 0 < len(paid) < k:
        assert told.earnings_micro_usd is told.active_accounts is None
    else:
        assert told.earnings_micro_usd == sum(paid) // 1_000
        assert told.active_accounts == len(paid)
    assert told.tokens == sum(done.tokens for _, done in owners)
    assert told.jobs == sum(done.jobs for _, done in owners)


def test_a_board_of_too_few_is_empty() -> None:
    """Each line is one account's: of fewer than k there is none."""
    entries = views.ranked("jobs", [figure(work(), account="acct_a")], {"acct_a": "SwiftFalcon"})

    assert views.leaderboard(NOON, "jobs", "all", entries, 50, 2).entries == []


# ── analytics ────────────────────────────────────────────────────────────────────────


def analytics(
    daily: list[Worked], hourly: list[Worked], k: int = 1, epoch: Epoch = NOON, **counts: object
) -> NetworkAnalytics:
    consumers = analytic.Consumers(
        counts.get("models", {}),  # type: ignore[arg-type]
        counts.get("days", {}),  # type: ignore[arg-type]
        counts.get("hours", {}),  # type: ignore[arg-type]
        int(counts.get("everyone", 0)),  # type: ignore[call-overload]
    )
    return analytic.analytics(epoch, daily, hourly, CATALOGUE, consumers, k)


ends = st.integers(2_600_000, 3_500_000)  # numbers of ten minutes, 2019 to 2036


@given(ends)
def test_hours_and_days_are_consecutive_and_end_with_the_present_ones(number: int) -> None:
    """24 hours and 30 days up to the one of the snapshot, across midnights, months, leap days."""
    epoch = Epoch(number, 600)
    told = analytics([], [], epoch=epoch).trend

    last = datetime.fromtimestamp(epoch.end_s - 1, UTC)
    hour = last.replace(minute=0, second=0, microsecond=0)
    assert [b.bucket for b in told.hours] == [
        (hour - timedelta(hours=ago)).strftime("%Y-%m-%d %H:00") for ago in range(23, -1, -1)
    ]
    days = [(last - timedelta(days=ago)).strftime("%Y-%m-%d") for ago in range(29, -1, -1)]
    assert [bucket.bucket for bucket in told.month] == days
    assert [bucket.bucket for bucket in told.week] == days[-7:]
    assert {bucket.tokens for bucket in (*told.hours, *told.month)} == {0}


def test_the_days_around_a_leap_day_are_all_there() -> None:
    """29 February 2028 has a bucket, and so have the days beside it."""
    march = Epoch(int(datetime(2028, 3, 1, 0, 10, tzinfo=UTC).timestamp()) // 600, 600)
    days = [bucket.bucket for bucket in analytics([], [], epoch=march).trend.month]

    assert days[-3:] == ["2028-02-28", "2028-02-29", "2028-03-01"]


used = st.lists(
    st.tuples(st.integers(0, 29), st.sampled_from(MODELS), works),
    unique_by=lambda cell: cell[:2],
    max_size=40,
)


@given(used)
def test_totals_models_and_days_are_one_sum_seen_three_ways(
    cells: list[tuple[int, ModelId, Work]],
) -> None:
    """Tokens are prompt + completion; models, days and totals agree; shares are at most 1."""
    starts = analytic.day_starts(NOON.end_s)
    told = analytics([figure(done, starts[day], model) for day, model, done in cells], [])
    totals = told.totals

    assert totals.tokens == (totals.prompt_tokens or 0) + (totals.completion_tokens or 0)
    assert totals.tokens == sum(done.tokens for _, _, done in cells)
    assert totals.tokens == sum(model.tokens or 0 for model in told.top_models)
    assert totals.tokens == sum(day.tokens or 0 for day in told.trend.month)
    assert totals.requests == sum(day.requests or 0 for day in told.trend.month)
    assert (totals.cached_tokens or 0) <= (totals.prompt_tokens or 0)
    assert told.trend.week == told.trend.month[-7:]
    assert sum(Decimal(str(model.share)) for model in told.top_models) <= 1
    ranks = [model.rank for model in told.top_models]
    assert ranks == sorted(ranks)  # type: ignore[type-var]


def test_models_have_their_names_also_when_they_are_offered_no_more() -> None:
    """A card says name and publisher; without a card the id has to do."""
    start = analytic.day_starts(NOON.end_s)[-1]
    told = analytics([figure(work(8), start, DEMO_MODEL), figure(work(4), start, OTHER)], [])

    assert [(m.model_id, m.model_name, m.provider, m.share) for m in told.top_models] == [
        (DEMO_MODEL, "Coster Demo", "coster", 0.6667),
        (OTHER, OTHER, "", 0.3333),
    ]


def test_only_fifteen_models_are_listed_and_their_shares_are_of_all() -> None:
    """The sixteenth is in the totals and not in the list."""
    start = analytic.day_starts(NOON.end_s)[-1]
    told = analytics([figure(work(10 * n), start, f"m/{n:02}") for n in range(1, 18)], [])

    assert [model.model_id for model in told.top_models] == [f"m/{n:02}" for n in range(17, 2, -1)]
    assert sum(model.share or 0 for model in told.top_models) < 1


def test_hours_stay_with_their_day_when_small_groups_are_withheld() -> None:
    """With k of 3 an hour of one account takes one more of its own day with it."""
    hours = list(analytic.hour_starts(NOON.end_s))
    some = [figure(work(), start) for start in (hours[0], hours[-4], hours[-2], hours[-1])]
    days = [figure(work(), start, DEMO_MODEL) for start in analytic.day_starts(NOON.end_s)[-2:]]
    told = analytics(
        days, some, 3, everyone=9, models={DEMO_MODEL: 9},
        days=dict.fromkeys(analytic.day_starts(NOON.end_s)[-2:], 9),
        hours={hours[0]: 5, hours[-4]: 4, hours[-2]: 1, hours[-1]: 6},
    )  # fmt: skip

    assert [told.trend.hours[at].requests for at in (0, -4, -2, -1)] == [1, None, None, 1]
    assert told.totals.requests == 2
    assert told.trend.month[-1].requests == 1


def test_models_of_too_few_callers_have_neither_rank_nor_size() -> None:
    """They stand last, in the order of their ids, and the totals do not give them away."""
    start = analytic.day_starts(NOON.end_s)[-1]
    days = [figure(work(size), start, model) for size, model in zip((9, 8, 7), MODELS, strict=True)]
    counts = dict(zip(MODELS, (9, 1, 5), strict=True))
    told = analytics(days, [], 3, everyone=9, models=counts, days={start: 9})

    assert [(m.model_id, m.rank, m.tokens, m.share) for m in told.top_models] == [
        (DEMO_MODEL, 1, 9, 0.375),
        (OTHER, None, None, None),
        (MODELS[1], None, None, None),
    ]


def test_a_market_of_too_few_callers_tells_nothing_at_all() -> None:
    """Totals, models and buckets of two callers are null where groups are of three."""
    start = analytic.day_starts(NOON.end_s)[-1]
    told = analytics(
        [figure(work(), start, DEMO_MODEL)], [], 3,
        everyone=2, models={DEMO_MODEL: 2}, days={start: 2},
    )  # fmt: skip

    assert set(told.totals.model_dump().values()) == {None}
    assert told.trend.month[-1].tokens is None
    assert told.trend.month[0].tokens == 0


def test_before_the_first_snapshot_it_says_that_there_is_none() -> None:
    """Its date and totals are null, and no buckets are there that could be taken for quiet ones."""
    told = analytic.no_analytics()

    assert told.generated_at is None
    assert set(told.totals.model_dump().values()) == {None}
    assert told.top_models == told.trend.month == told.trend.hours == []


@pytest.mark.parametrize("second", [0, 1, HOUR_S - 1, HOUR_S])
def test_a_snapshot_at_the_full_hour_ends_with_the_hour_that_is_over(
    second: int,
) -> None:
    """No bucket begins at or after what the snapshot tells of."""
    end_s = 20_000 * DAY_S + second
    starts = analytic.hour_starts(end_s)

    assert len(starts) == 24
    assert starts[-1] < end_s <= starts[-1] + HOUR_S
