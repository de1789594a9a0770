"""What a market of larger groups withholds stays withheld, whatever is subtracted from what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from market.accounting.rollups import DAY_S, HOUR_S
from market.types import ModelId
from serve_app import views_analytics as analytic
from serve_app.schemas_public import NetworkAnalytics
from tests.unit.test_public_views import MODELS, NOON, OTHER, analytics, figure, work

HOURS_AGO = (0, 1, 2, 12, 13, 22, 23, 24, 30, 47, 60)
"""Of today, of yesterday's shown hours (12 to 23) and unshown ones, of the days before."""


def body_of(uses: list[tuple[int, int, ModelId]], k: int) -> NetworkAnalytics:
    """The analytics of single uses: which caller, how many hours ago, which model."""
    last_s = analytic.hour_starts(NOON.end_s)[-1]
    when = [last_s - ago * HOUR_S for _, ago, _ in uses]
    days: dict[int, set[int]] = {}
    hours: dict[int, set[int]] = {}
    models: dict[ModelId, set[int]] = {}
    for (caller, _, model), start in zip(uses, when, strict=True):
        days.setdefault(start - start % DAY_S, set()).add(caller)
        hours.setdefault(start, set()).add(caller)
        models.setdefault(model, set()).add(caller)
    cells = list(zip(when, (model for _, _, model in uses), strict=True))
    first_s = analytic.hour_starts(NOON.end_s)[0]
    return analytics(
        [figure(work(), start - start % DAY_S, model) for start, model in cells],
        [figure(work(), start) for start, _ in cells if start >= first_s],
        k,
        everyone=len({caller for caller, _, _ in uses}),
        models={model: len(callers) for model, callers in models.items()},
        days={start: len(callers) for start, callers in days.items()},
        hours={start: len(callers) for start, callers in hours.items()},
    )


def computable(cells: list[tuple[int, ModelId]], told: list[list[int]], wanted: list[int]) -> bool:
    """Whether sums of some cells, which are told, fix the sum of others: it is in their span.

    Readers know which cells a sum is of, and of a cell no more than that it may not be 0.
    """
    assert len(wanted) == len(cells)
    table = np.array(told, dtype=float).reshape(len(told), len(cells))
    with_it = np.vstack([table, np.array(wanted, dtype=float)])
    before = np.linalg.matrix_rank(table) if told else 0
    return bool(np.linalg.matrix_rank(with_it) == before)


def groups_of(told: NetworkAnalytics) -> dict[str, int | None]:
    """Every figure of a body by the name of its group, with those of a day's unshown hours."""
    groups = {f"model {model.model_id}": model.requests for model in told.top_models}
    groups |= {f"at {bucket.bucket}": bucket.requests for bucket in told.trend.month}
    groups |= {f"at {bucket.bucket}": bucket.requests for bucket in told.trend.hours}
    return groups | {"all": told.totals.requests}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from(HOURS_AGO),
            st.sampled_from(MODELS),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(2, 4),
)
@example([(0, 13, OTHER)] + [(c, a, OTHER) for a, n in ((0, 3), (60, 9)) for c in range(n)], 3)
@example([(c, a, OTHER) for a, n in ((22, 4), (30, 1), (60, 9)) for c in range(n)], 3)
def test_nothing_withheld_can_be_computed_from_what_is_told(
    uses: list[tuple[int, int, ModelId]], k: int
) -> None:
    """Of models, days, hours and totals together: no told sums add up to or leave a hidden one,
    nor the hours of yesterday that are not shown when they are of fewer than k callers.
    """
    end = datetime.fromtimestamp(analytic.hour_starts(NOON.end_s)[-1], UTC)

    def belongs(group: str, ago: int, model: ModelId) -> bool:
        hour = (end - timedelta(hours=ago)).strftime("%Y-%m-%d %H:00")
        return group in ("all", f"model {model}", f"at {hour}", f"at {hour[:10]}")

    def row(group: str) -> list[int]:
        return [int(belongs(group, ago, model)) for ago, model in cells]

    groups = groups_of(body_of(uses, k))
    nothing = [group for group, size in groups.items() if size == 0]
    cells = [
        (ago, model)
        for ago in HOURS_AGO
        for model in MODELS
        if f"model {model}" in groups and not any(belongs(zero, ago, model) for zero in nothing)
    ]
    told = [row(group) for group, size in groups.items() if size]
    hidden = [group for group, size in groups.items() if size is None]
    for group in hidden:
        assert any(row(group)), "only what happened is withheld"
        assert not computable(cells, told, row(group)), group
    early = [int(24 <= ago < 36) for ago, _ in cells]  # yesterday's hours before the last 24
    callers = {caller for caller, ago, _ in uses if 24 <= ago < 36}
    assert not 0 < len(callers) < k or not computable(cells, told, early)
