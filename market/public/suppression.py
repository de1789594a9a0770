"""Which figures of groups may be told: none of a group that is too small, nor by subtraction.

A table of cells is published beside its total, and a cell of fewer than k accounts is withheld.
What is withheld together is the total less the cells that are told, so that has to be of k
accounts as well. Accounts may be in several cells: two of two accounts each can be of the same
two. So with the small cells one is withheld that has k accounts by itself, the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence


def withheld(accounts: Sequence[int], k: int) -> frozenset[int]:
    """Positions of the cells that must not be told; `accounts` says of how many each consists.

    An empty cell, of no account at all, is always told: its zero is about nobody.
    """
    cells = [at for at, count in enumerate(accounts) if count > 0]
    hidden = [at for at in cells if accounts[at] < k]
    if not hidden:
        return frozenset()
    large = [at for at in cells if accounts[at] >= k]
    also = min(large, key=lambda at: (accounts[at], at), default=None)
    return frozenset(hidden if also is None else [*hidden, also])
