"""From what Macs did to what everybody may see of it. Pure.

Accounts appear as pseudonyms or not at all, machines by their public ids, and the two never
beside each other. `k` is the fewest accounts that a figure of a group may be of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from market.accounting.rollups import MINUTE_S, Work
from market.accounting.statistics import Worked
from market.public.epochs import Epoch
from market.public.ranking import average, dense_ranks
from market.public.suppression import withheld
from market.routing.public import PublicFleet, PublicMac
from market.types import AccountId, MachineId, ModelId
from serve_app.schemas_public import (
    CpuCores,
    Leaderboard,
    LeaderboardEntry,
    Metric,
    NetworkTotals,
    Stats,
    StatsMinute,
    StatsModel,
    StatsProvider,
    Window,
)
from serve_app.views import stamp

MINUTES = 30
NANO_PER_MICRO = 1_000
CHIP_TIERS = ("Pro", "Max", "Ultra")
NOTHING = Work()


def added(figures: Sequence[Worked]) -> Work:
    """All of these together."""
    if not figures:
        return NOTHING
    return Work(*map(sum, zip(*(figure.work for figure in figures), strict=True)))


def accounts_of(figures: Sequence[Worked]) -> set[AccountId]:
    """Whose work it is."""
    return {figure.account for figure in figures}


# ── the network as it stands ─────────────────────────────────────────────────────────


def stats(
    epoch: Epoch, fleet: PublicFleet, ever: Sequence[Worked], minutes: Sequence[Worked], k: int
) -> Stats:
    """`ever` is told by machine and account, `minutes` by minute and account."""
    whole = added(ever)
    told = len(accounts_of(ever)) >= k or not ever
    macs = fleet.macs
    served: dict[MachineId, list[Worked]] = {}
    for figure in ever:
        served.setdefault(figure.machine, []).append(figure)
    hardware = [mac.hardware for mac in macs]
    return Stats(
        total_requests=whole.requests if told else None,
        total_prompt_tokens=whole.prompt_tokens if told else None,
        total_completion_tokens=whole.completion_tokens if told else None,
        total_tokens=whole.tokens if told else None,
        avg_tokens_per_request=average(whole.tokens, whole.requests) if told else None,
        active_providers=len(macs),
        total_gpu_cores=sum(each.gpu_cores for each in hardware),
        total_cpu_cores=sum(each.cpu_cores for each in hardware),
        total_memory_gb=sum(each.memory_gb for each in hardware),
        total_bandwidth_gbs=round(sum(each.bandwidth_gbs for each in hardware), 1),
        providers=[_provider(mac, added(served.get(mac.machine, ())), told=k <= 1) for mac in macs],
        models=_models(macs, k),
        time_series=_minutes(epoch, minutes, k),
        snapshot_at=stamp(epoch.end_s),
    )


def _provider(mac: PublicMac, served: Work, *, told: bool) -> StatsProvider:
    """One Mac is a group of one owner: where groups must be larger only its hardware is told."""
    family, _, tier = mac.hardware.chip.partition(" ")
    known = family[:1] == "M" and family[1:].isdigit() and tier in ("", *CHIP_TIERS)
    return StatsProvider(
        id=mac.provider,
        chip=mac.hardware.chip,
        chip_family=family if known else None,
        chip_tier=(tier or "base") if known else None,
        machine_model=None,
        memory_gb=mac.hardware.memory_gb,
        gpu_cores=mac.hardware.gpu_cores,
        cpu_cores=CpuCores(total=mac.hardware.cpu_cores, performance=None, efficiency=None),
        memory_bandwidth_gbs=mac.hardware.bandwidth_gbs,
        status=mac.state,
        trust_level=mac.trust,
        decode_tps=round(mac.decode_tps, 1) if told and mac.decode_tps > 0 else None,
        requests_served=served.requests if told else None,
        tokens_generated=served.completion_tokens if told else None,
        models=list(mac.models) if told else None,
        current_model=mac.current if told else None,
        attested=False,
        runtime_verified=False,
        last_challenge_verified=None,
        failed_challenges=None,
    )


def _models(macs: Sequence[PublicMac], k: int) -> list[StatsModel]:
    having: dict[ModelId, list[PublicMac]] = {}
    for mac in macs:
        for model in mac.models:
            having.setdefault(model, []).append(mac)
    order = sorted(having)
    if k <= 1:  # else the order would tell what is not told
        order.sort(key=lambda model: -len(having[model]))
    hidden = withheld([len({mac.owner for mac in having[model]}) for model in order], k)
    return [
        StatsModel(id=model, providers=None if at in hidden else len(having[model]))
        for at, model in enumerate(order)
    ]


def _minutes(epoch: Epoch, figures: Sequence[Worked], k: int) -> list[StatsMinute]:
    starts = range(epoch.end_s - MINUTES * MINUTE_S, epoch.end_s, MINUTE_S)
    by_minute = by_start(figures)
    hidden = withheld([len(accounts_of(by_minute.get(start, []))) for start in starts], k)
    series = []
    for at, start in enumerate(starts):
        work, told = added(by_minute.get(start, [])), at not in hidden
        series.append(
            StatsMinute(
                timestamp=stamp(start),
                requests=work.requests if told else None,
                prompt_tokens=work.prompt_tokens if told else None,
                completion_tokens=work.completion_tokens if told else None,
                total_tokens=work.tokens if told else None,
            )
        )
    return series


def by_start(figures: Sequence[Worked]) -> dict[int, list[Worked]]:
    """The figures of each bucket, by its beginning."""
    found: dict[int, list[Worked]] = {}
    for figure in figures:
        found.setdefault(figure.start_s, []).append(figure)
    return found


# ── who did how much ─────────────────────────────────────────────────────────────────


def network_totals(
    epoch: Epoch, window: Window, figures: Sequence[Worked], k: int
) -> NetworkTotals:
    """`figures` are the window's, by account. Earnings are of those that were paid alone."""
    whole, told = added(figures), len(figures) >= k or not figures
    paid = sum(figure.work.earned_nano > 0 for figure in figures)
    paid_told = told and (paid >= k or not paid)
    return NetworkTotals(
        window=window,
        earnings_micro_usd=whole.earned_nano // NANO_PER_MICRO if paid_told else None,
        tokens=whole.tokens if told else None,
        jobs=whole.jobs if told else None,
        active_accounts=paid if paid_told else None,
        updated_at=stamp(epoch.end_s),
    )


def size_of(metric: Metric, work: Work) -> int:
    """What a metric ranks by; earnings to the nano-USD."""
    return {"earnings": work.earned_nano, "tokens": work.tokens, "jobs": work.jobs}[metric]


def ranked(
    metric: Metric, figures: Sequence[Worked], names: Mapping[str, str]
) -> list[LeaderboardEntry]:
    """Every account of a window, the largest first; equal ones in the order of their names."""
    order = sorted(figures, key=lambda f: (-size_of(metric, f.work), names[f.account]))
    ranks = dense_ranks([size_of(metric, figure.work) for figure in order])
    return [
        LeaderboardEntry(
            rank=rank,
            pseudonym=names[figure.account],
            earnings_micro_usd=figure.work.earned_nano // NANO_PER_MICRO,
            tokens=figure.work.tokens,
            jobs=figure.work.jobs,
        )
        for rank, figure in zip(ranks, order, strict=True)
    ]


def leaderboard(
    epoch: Epoch,
    metric: Metric,
    window: Window,
    entries: Sequence[LeaderboardEntry],
    limit: int,
    k: int,
) -> Leaderboard:
    """The first `limit` entries; none while fewer than k accounts are in the window."""
    return Leaderboard(
        metric=metric,
        window=window,
        entries=list(entries[:limit]) if len(entries) >= k else [],
        updated_at=stamp(epoch.end_s),
    )
