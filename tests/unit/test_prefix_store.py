"""A simulated Mac's memory of prompts: what it finds, what it forgets first, and how much it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market.policy.prefixes import BLOCK_TOKENS, block_hashes
from market.prefix_store import PrefixStore
from market.types import ModelId

A, B = ModelId("A"), ModelId("B")
BLOCK = 10.0 * BLOCK_TOKENS
"""Bytes of a block at ten bytes a token."""


def test_only_the_beginning_that_is_kept_in_one_piece_counts() -> None:
    """A prompt is known up to its first unknown block, for the model that read it."""
    store = PrefixStore(10 * BLOCK)
    store.note(A, (1, 2, 3), 10.0)
    assert store.cached_tokens(A, (1, 2, 9, 3)) == 2 * BLOCK_TOKENS
    assert store.cached_tokens(A, (9, 1, 2)) == 0
    assert store.cached_tokens(B, (1, 2)) == 0


def test_the_end_of_what_was_used_longest_ago_goes_first() -> None:
    """Room is made from the back of old sequences, so that what is left is a beginning."""
    store = PrefixStore(4 * BLOCK)
    store.note(A, (1, 2, 3), 10.0)
    store.note(A, (7, 8), 10.0)
    assert store.cached_tokens(A, (1, 2, 3)) == 2 * BLOCK_TOKENS
    store.note(A, (1, 2), 10.0)
    store.note(A, (5, 6), 10.0)
    assert store.cached_tokens(A, (1, 2)) == 2 * BLOCK_TOKENS
    assert store.cached_tokens(A, (7, 8)) == 0


def test_two_consumers_have_nothing_in_common() -> None:
    """The same prompt in another scope is another prompt, and without one is never kept."""
    tokens = tuple(range(200))
    store = PrefixStore(100 * BLOCK)
    store.note(A, block_hashes(tokens, "ada", A), 10.0)
    assert store.cached_tokens(A, block_hashes(tokens, "ada", A)) == 3 * BLOCK_TOKENS
    assert store.cached_tokens(A, block_hashes(tokens, "ben", A)) == 0
    assert block_hashes(tokens, "", A) == ()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]),
            st.lists(st.integers(0, 30), max_size=6, unique=True),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_it_never_holds_more_than_its_bound(notes: list[tuple[ModelId, list[int], bool]]) -> None:
    """Bytes by model add up to at most the bound, and forgetting a model gives all of its back."""
    store = PrefixStore(8 * BLOCK)
    for model, leaves, forget in notes:
        if forget:
            store.forget(model)
            assert store.bytes_of(model) == 0
        store.note(model, tuple(leaves), 10.0)
        assert store.bytes_of(A) + store.bytes_of(B) <= 8 * BLOCK
        if len(leaves) <= 8:
            assert store.cached_tokens(model, tuple(leaves)) == len(leaves) * BLOCK_TOKENS
