"""What public lists are made of: ranks, shares, names that hide, and figures that are withheld."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from hypothesis import given
from hypothesis import strategies as st

from market.public.epochs import LAG_S, epoch_at
from market.public.pseudonyms import alias_key, pseudonyms
from market.public.ranking import SHARE_PARTS, average, dense_ranks, shares
from market.public.suppression import withheld
from market.public.words import ANIMALS, QUALITIES

KEY = alias_key(bytes(32))
sizes = st.lists(st.integers(0, 10**12), max_size=20)


@given(sizes)
def test_ranks_are_dense_and_follow_sizes(values: list[int]) -> None:
    """1 is the largest, equal ones share a rank, and no rank between is left out."""
    ranks = dense_ranks(values)

    assert set(ranks) == set(range(1, len(set(values)) + 1))
    for one, other in zip(
        zip(values, ranks, strict=True), zip(values[1:], ranks[1:], strict=True), strict=False
    ):
        assert (one[0] > other[0]) == (one[1] < other[1])


@given(sizes, st.integers(0, 10**12))
def test_shares_never_exceed_the_whole(values: list[int], rest: int) -> None:
    """However they are rounded, they add up to at most 1, and each is within 1/10,000."""
    whole = sum(values) + rest
    parts = shares(values, whole)

    assert sum(Decimal(str(part)) for part in parts) <= 1
    for value, part in zip(values, parts, strict=True):
        assert 0 <= part <= 1
        if whole:
            assert abs(Decimal(value) / whole - Decimal(str(part))) <= Decimal(1) / SHARE_PARTS


def test_shares_are_rounded_to_the_nearest_where_they_can_be() -> None:
    """Two thirds are 0.6667; where rounding up would give more than 1 somebody loses a part."""
    assert shares([2, 1], 3) == [0.6667, 0.3333]
    assert shares([500_000_000], 1_234_567_890) == [0.405]
    assert shares([1] * 7, 7) == [0.1428] * 3 + [0.1429] * 4
    assert shares([1] * 3, 0) == [0.0] * 3


@given(st.integers(0, 10**15), st.integers(0, 10**9))
def test_an_average_is_right_to_one_decimal(whole: int, count: int) -> None:
    """Halves go up, as people round; of nothing it is 0."""
    told = average(whole, count)

    if not count:
        assert told == 0.0
    else:
        exact = Decimal(whole) / Decimal(count)
        if abs(exact) < 10**14:
            assert Decimal(str(told)) == exact.quantize(Decimal("0.1"), ROUND_HALF_UP)


def test_the_average_of_the_published_sample_is_what_it_should_have_been() -> None:
    """120,282,000 tokens in 142,893 requests are 841.8, not 841.7."""
    assert average(120_282_000, 142_893) == 841.8


# ── names ────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.text(min_size=1), unique=True, max_size=30))
def test_every_account_has_a_name_of_its_own(accounts: list[str]) -> None:
    """Names are unique, hold no part of the account, and do not depend on the order."""
    names = pseudonyms(accounts, KEY)

    assert len(set(names.values())) == len(accounts)
    assert names == pseudonyms(reversed(accounts), KEY)
    for name in names.values():
        words = name.partition("-")[0]
        assert any(words == a + b for a in QUALITIES if words.startswith(a) for b in ANIMALS)


def test_colliding_names_all_get_digits_and_the_others_stay() -> None:
    """Of many accounts some must collide: each of those is marked, nobody is first."""
    accounts = [f"acct_{number}" for number in range(1_000)]
    names = pseudonyms(accounts, KEY)
    plain = {account: pseudonyms([account], KEY)[account] for account in accounts}

    bare = list(plain.values())
    colliding = {account for account in accounts if bare.count(plain[account]) > 1}
    assert colliding
    for account in accounts:
        if account in colliding:
            assert names[account].startswith(plain[account] + "-")
        else:
            assert names[account] == plain[account]


def test_names_are_the_markets_own() -> None:
    """The same key gives the same names after every restart, another key gives others."""
    accounts = [f"acct_{number}" for number in range(50)]
    other = alias_key(b"p" * 32)

    assert pseudonyms(accounts, KEY) == pseudonyms(accounts, alias_key(bytes(32)))
    same = [a for a in accounts if pseudonyms([a], KEY) == pseudonyms([a], other)]
    assert not same
    assert bytes(32) != KEY


def test_there_are_as_many_words_as_a_byte_can_choose() -> None:
    """256 of each, no two alike, each written with one capital letter."""
    for words in (QUALITIES, ANIMALS):
        assert len(set(words)) == 256
        assert all(word.isalpha() and word == word.capitalize() for word in words)
    assert len({a + b for a in QUALITIES for b in ANIMALS}) == 256 * 256


# ── what is withheld ─────────────────────────────────────────────────────────────────

groups = st.lists(st.integers(0, 12), max_size=10)


@given(groups, st.integers(1, 8))
def test_no_small_group_is_told_nor_found_by_subtraction(accounts: list[int], k: int) -> None:
    """Each told cell is of k accounts or nobody. Of the withheld ones, which the total gives
    away together, one is of k accounts by itself, unless they are all there are.
    """
    hidden = withheld(accounts, k)

    told = [count for at, count in enumerate(accounts) if at not in hidden]
    assert all(count == 0 or count >= k for count in told)
    if hidden:
        rest = [count for count in told if count > 0]
        assert max(accounts[at] for at in hidden) >= k or not rest


@given(groups, st.integers(1, 8))
def test_nothing_is_withheld_without_need(accounts: list[int], k: int) -> None:
    """Groups that are all large enough, and empty ones, are told; with k = 1 all are."""
    assert withheld(accounts, 1) == frozenset()
    assert all(accounts[at] > 0 for at in withheld(accounts, k))
    if all(count == 0 or count >= k for count in accounts):
        assert withheld(accounts, k) == frozenset()
    small = {at for at, count in enumerate(accounts) if 0 < count < k}
    assert small <= withheld(accounts, k)
    assert len(withheld(accounts, k)) <= len(small) + 1


def test_one_small_group_takes_the_next_larger_with_it() -> None:
    """Alone it would be the total less the others."""
    assert withheld([9, 1, 5, 0], k=3) == {1, 2}
    assert withheld([9, 1, 2, 5], k=3) == {1, 2, 3}
    assert withheld([1, 1], k=3) == {0, 1}


# ── epochs ───────────────────────────────────────────────────────────────────────────


@given(st.floats(10**9, 2 * 10**9), st.sampled_from([60, 300, 600]))
def test_an_epoch_tells_of_time_that_is_over(now_s: float, period_s: int) -> None:
    """Its end is on a whole period, LAG_S ago or more, and within a period and that."""
    epoch = epoch_at(now_s, period_s)

    assert epoch.end_s % period_s == 0
    assert LAG_S <= now_s - epoch.end_s < period_s + LAG_S
    assert 0 <= epoch.age_s(now_s) <= period_s
    assert epoch_at(epoch.end_s + LAG_S, period_s) == epoch
