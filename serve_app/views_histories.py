"""From sums and pages of the past to the shapes of the API, and to the rows of exports. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from market.accounting.asking import UsePage, WorkPage
from market.accounting.histories import Job, UseSum, WorkSum
from market.accounting.rollups import Use, Work
from market.accounting.rows import RequestRow
from market.money import NANO_PER_USD, usd_number
from serve_app.schemas_histories import (
    ChargedEntry,
    EarningsSum,
    EarningsSums,
    UsageSum,
    UsageSums,
)
from serve_app.views import stamp, stamp_ns, usage_entry


def charged(row: RequestRow) -> ChargedEntry:
    """One charged request, with the moment at which it was."""
    entry = usage_entry(row).model_dump()
    return ChargedEntry.model_validate({**entry, "charged_at": stamp_ns(row.finished_ns)})


def _tokens(sums: Use | Work) -> dict[str, int]:
    return {
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "cached_tokens": sums.cached_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
        "total_tokens": sums.tokens,
    }


def usage_sum(one: UseSum, by: Sequence[str]) -> UsageSum:
    """One sum of what was used."""
    use = one.use
    return UsageSum.model_validate(
        {
            "start": stamp(one.start_s) if _timed(by) else None,
            "model": one.model if "model" in by else None,
            "key_id": one.key_id if "key" in by else None,
            "requests": use.requests,
            "failures": use.failures,
            **_tokens(use),
            "cost_nano_usd": str(use.cost_nano),
            "cost_micro_usd": use.cost_nano // 1000,
            "cost_usd": use.cost_nano / NANO_PER_USD,
        }
    )


def earnings_sum(one: WorkSum, by: Sequence[str]) -> EarningsSum:
    """One sum of what Macs did and earned."""
    work = one.work
    return EarningsSum.model_validate(
        {
            "start": stamp(one.start_s) if _timed(by) else None,
            "machine": one.machine if "machine" in by else None,
            "model": one.model if "model" in by else None,
            "jobs": work.jobs,
            "requests": work.requests,
            **_tokens(work),
            "cost_nano_usd": str(work.cost_nano),
            "earned_nano_usd": str(work.earned_nano),
            "earned_micro_usd": work.earned_nano // 1000,
            "earned_usd": work.earned_nano / NANO_PER_USD,
        }
    )


def usage_sums(page: UsePage, by: Sequence[str], cursor: str | None) -> UsageSums:
    """A page of sums of what was used."""
    data = [usage_sum(one, by) for one in page.sums]
    return UsageSums(by=list(by), data=data, next_cursor=cursor, **_stretch(page))


def earnings_sums(page: WorkPage, by: Sequence[str], cursor: str | None) -> EarningsSums:
    """A page of sums of what Macs did and earned."""
    data = [earnings_sum(one, by) for one in page.sums]
    return EarningsSums(by=list(by), data=data, next_cursor=cursor, **_stretch(page))


def _timed(by: Sequence[str]) -> bool:
    return "hour" in by or "day" in by


def _stretch(page: UsePage | WorkPage) -> dict[str, Any]:
    begin_s, end_s = page.stretch
    return {"begin": None if begin_s is None else stamp(begin_s), "end": stamp(end_s)}


# ── rows of exports ───────────────────────────────────────────────────────────────────

USAGE_COLUMNS: Final = (
    *("request_id", "timestamp", "charged_at", "model", "key_id", "provider", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "total_tokens"),
    *("cost_nano_usd", "cost_usd"),
)
JOB_COLUMNS: Final = (
    *("request_id", "timestamp", "model", "machine", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens"),
    *("cost_nano_usd", "fee_nano_usd", "amount_nano_usd", "amount_usd"),
)


def usage_cells(row: RequestRow) -> tuple[object, ...]:
    """A charged request by USAGE_COLUMNS."""
    return (
        *(row.request_id, stamp_ns(row.created_ns), stamp_ns(row.finished_ns), row.model),
        *(row.key_id, row.provider or "", row.finish_reason),
        *(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens),
        row.prompt_tokens + row.completion_tokens,
        *(str(row.cost_nano), usd_number(row.cost_nano)),
    )


def job_cells(job: Job) -> tuple[object, ...]:
    """A paid job by JOB_COLUMNS."""
    row = job.row
    return (
        *(row.request_id, stamp_ns(row.finished_ns), row.model, row.machine or ""),
        *(row.finish_reason, row.prompt_tokens, row.completion_tokens, row.cached_tokens),
        row.prompt_tokens + row.completion_tokens,
        *(str(row.cost_nano), str(row.fee_nano), str(row.provider_nano)),
        usd_number(row.provider_nano),
    )
