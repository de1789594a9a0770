"""Which figures of groups may be told: none of a group that is too small, nor by subtraction.

A table of cells is published beside its total. A cell of fewer than k accounts is withheld.
If what is withheld together were still fewer than k accounts, or a single cell, the total less
the cells that are told would give it away; so further cells are withheld, the smallest first.
"""

from __future__ import annotations

from collections.abc import Sequence


def withheld(accounts: Sequence[int], k: int, *, with_total: bool = True) -> frozenset[int]:
    """Positions of the cells that must not be told; `accounts` says of how many each consists.

    An empty cell, of no account at all, is always told: its zero is about nobody. Without a
    total beside them only the small cells are withheld.
    """
    cells = [at for at, count in enumerate(accounts) if count > 0]
    hidden = [at for at in cells if accounts[at] < k]
    if not hidden or not with_total:
        return frozenset(hidden)
    others = sorted((at for at in cells if accounts[at] >= k), key=lambda at: (accounts[at], at))
    for at in others:
        if len(hidden) > 1 and sum(accounts[cell] for cell in hidden) >= k:
            break
        hidden.append(at)
    return frozenset(hidden)
