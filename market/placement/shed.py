"""What has to leave whatever the plan: forbidden by its owner, or more than the Mac can hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from market.placement.problem import BoolArray
from market.placement.tables import LEAVING, Tables


def shed(tables: Tables, pinned: BoolArray) -> Tables:
    """The tables with such copies taken as leaving.

    A model that is alone on its Mac and runs there stays, whatever our arithmetic says of its
    working memory. Where several are too much, the least busy goes first, pins last.
    """
    leaving = tables.here & ~tables.allowed
    for row in np.flatnonzero(tables.here @ tables.need > tables.room + 0.5):
        left = tables.here[row] & ~leaving[row]
        worth = tables.busy[row] * tables.worth
        order = sorted(
            np.flatnonzero(left), key=lambda at: (pinned[row, at], worth[at], -tables.need[at])
        )
        for column in order:
            if left.sum() <= 1 or left @ tables.need <= tables.room[row] + 0.5:
                break
            left[column] = False
            leaving[row, column] = True
    if not leaving.any():
        return tables
    return replace(tables, place=np.where(leaving, LEAVING, tables.place), shed=leaving)
