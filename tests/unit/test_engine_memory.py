"""Admission by bytes: the plan covers a padded batch and its copy, and says what fits."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from actors.engines.memory import CACHE_BLOCK_TOKENS, MemoryPlan, SharedMemory

GB = 2**30
LENGTHS = st.lists(st.integers(1, 20_000), min_size=1, max_size=32)


def plan(budget_gb: float = 64) -> MemoryPlan:
    return MemoryPlan(int(budget_gb * GB), 14 * GB, 65_536, 154_000_000)


@given(LENGTHS)
def test_a_batch_is_as_large_as_its_longest_row_makes_it(lengths: list[int]) -> None:
    """Every row is padded to the longest, in blocks, and counted twice for the copy."""
    padded = -(-max(lengths) // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS
    least = 2 * len(lengths) * padded * 65_536
    need = plan().need_bytes(lengths)
    assert need >= 14 * GB + least + plan().reserve_bytes
    assert plan().need_bytes([*lengths, 1]) > need


@given(LENGTHS, st.integers(0, 4 * GB))
def test_stored_prefixes_count_against_the_budget(lengths: list[int], stored: int) -> None:
    """What fits with prefixes stored also fits without them."""
    if plan().fits(lengths, stored):
        assert plan().fits(lengths)
    assert plan().need_bytes(lengths, stored) == plan().need_bytes(lengths) + stored


def test_the_longest_sequence_is_exactly_what_fits_alone() -> None:
    """One block more than `longest_tokens` does not fit; nothing fits beside too much weight."""
    for budget_gb in (20, 24, 32, 64):
        longest = plan(budget_gb).longest_tokens()
        assert longest > 0
        assert plan(budget_gb).fits([longest])
        assert not plan(budget_gb).fits([longest + CACHE_BLOCK_TOKENS])
    assert plan(14).longest_tokens() == 0


def test_the_reserve_is_bounded_on_small_machines() -> None:
    """Three GiB, but never more than a quarter of the budget."""
    assert plan(64).reserve_bytes == 3 * GB
    assert plan(4).reserve_bytes == GB


@dataclass(eq=False)
class Model:
    """One that shares: what its rows and its stored prefixes take, a byte each."""

    weight_bytes: int
    rows: int = 0
    prefixes: int = 0

    def batch_bytes(self) -> int:
        return self.rows

    def prefix_bytes(self) -> int:
        return self.prefixes

    def drop_prefix(self) -> bool:
        return False


def test_what_a_model_cannot_have_is_all_that_the_others_hold() -> None:
    """Weights, admitted rows and stored prefixes; not its own."""
    memory = SharedMemory(100)
    one, other = Model(30, 5, 3), Model(20, 2, 1)
    memory.join(one)
    memory.join(other)
    assert memory.taken_bytes(one) == 23
    assert memory.taken_bytes(other) == 38
    assert (memory.weight_bytes(), memory.weight_bytes(apart_from=one)) == (50, 20)
    memory.leave(other)
    assert memory.taken_bytes(one) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_who_waits_for_room_is_let_in_by_turns(acts: list[tuple[int, bool]]) -> None:
    """The one that has waited longest may admit, and nobody else while anyone waits."""
    memory = SharedMemory(100)
    models = [Model(1), Model(1), Model(1)]
    for model in models:
        memory.join(model)
    waiting: list[int] = []
    for which, waits in acts:
        if waits:
            memory.claim(models[which])
            waiting += [] if which in waiting else [which]
        else:
            memory.settle(models[which])
            waiting = [each for each in waiting if each != which]
        allowed = [which for which in range(3) if memory.may_admit(models[which])]
        assert allowed == (waiting[:1] or [0, 1, 2])
