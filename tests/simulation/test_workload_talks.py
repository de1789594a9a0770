"""Conversations grow, share what they may share, and wait for answers only in a closed loop."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.policy.prefixes import BLOCK_TOKENS, BLOCKS_MAX
from simulator.records import Arrival, Ended
from simulator.streams import Streams
from simulator.workloads.blocks import blocks_in, regrouped
from simulator.workloads.demand import means_of
from simulator.workloads.rows import Notes
from simulator.workloads.source import Source, arrivals
from simulator.workloads.spec import Synthetic
from simulator.workloads.talks import ENDED
from tests.support.workload_kit import MODELS, PLAIN, drawn, workloads_of

TALKS = PLAIN + (
    "sessions = { turns = 4, think_s = 10, tokens_per_s = 20 }\n"
    "prefixes = { count = 2, tokens = 1_000 }\n"
    "consumers = { count = 3 }\n"
)


def by_session(requests: list[Arrival]) -> dict[str, list[Arrival]]:
    sessions: dict[str, list[Arrival]] = {}
    for a in requests:
        sessions.setdefault(a.session, []).append(a)
    return sessions


def common(x: tuple[int, ...], y: tuple[int, ...]) -> int:
    """How many blocks two texts have in common from their beginning."""
    count = 0
    for one, other in zip(x, y, strict=False):
        if one != other:
            break
        count += 1
    return count


# ── what is said ──────────────────────────────────────────────────────────────────────


def test_each_turn_goes_on_from_all_that_was_said() -> None:
    """A turn's prompt holds the one before and its answer, and begins with its blocks."""
    sessions = by_session(drawn(TALKS, 3_000))

    assert len(sessions) > 500
    for turns in sessions.values():
        for before, after in pairwise(turns):
            assert after.prompt_tokens > before.prompt_tokens + before.output_tokens
            assert after.prefix[: len(before.leaves)] == before.leaves
            assert (after.consumer, after.model) == (before.consumer, before.model)
            assert after.preferences == before.preferences


def test_hashes_are_those_of_whole_blocks() -> None:
    """A prompt has as many hashes as whole blocks, prompt and answer together likewise, both
    only as far as the market tells prompts apart.
    """
    for a in drawn(TALKS.replace("mean = 600", "mean = 9_000"), 2_000):
        assert len(a.prefix) == min(a.prompt_tokens // BLOCK_TOKENS, BLOCKS_MAX)
        assert len(a.leaves) == min((a.prompt_tokens + a.output_tokens) // BLOCK_TOKENS, BLOCKS_MAX)
        assert a.leaves[: len(a.prefix)] == a.prefix
        assert all(-(2**63) <= block < 2**63 for block in a.leaves)


def test_two_conversations_share_a_system_prompt_and_nothing_else() -> None:
    """Only whole blocks of the system prompt, and only of one consumer and one model: caches
    serve nobody else.
    """
    firsts = [turns[0] for turns in by_session(drawn(TALKS, 600)).values()]
    system = blocks_in(1_000)
    shared = {True: set(), False: set()}
    for x, y in combinations(firsts, 2):
        same = (x.consumer, x.model) == (y.consumer, y.model)
        shared[same].add(common(x.leaves, y.leaves))

    assert shared[False] == {0}
    assert shared[True] == {0, system}


def test_system_prompts_have_zipf_shares() -> None:
    """Of two system prompts the first begins twice as many requests as the second."""
    text = PLAIN + "prefixes = { count = 2, tokens = 640 }\nconsumers = { count = 1 }"
    counts: dict[int, int] = {}
    for a in drawn(text, 4_000, models=MODELS[:1]):
        counts[a.prefix[9]] = counts.get(a.prefix[9], 0) + 1
        assert a.prompt_tokens > 640
        assert a.session == ""
    more, fewer = sorted(counts.values(), reverse=True)

    assert more / fewer == pytest.approx(2.0, rel=0.15)


def test_turns_and_thinking_are_what_they_are_said_to_be() -> None:
    """So many turns on average, and after each answer, at the pace that is expected, so long to
    think.
    """
    requests = drawn(TALKS, 20_000)
    horizon_s = requests[-1].at_s * 0.8
    sessions = [t for t in by_session(requests).values() if t[0].at_s < horizon_s]
    thinks = [
        after.at_s - before.at_s - before.output_tokens / 20
        for turns in sessions
        for before, after in pairwise(turns)
    ]

    assert np.mean([len(turns) for turns in sessions]) == pytest.approx(4.0, rel=0.05)
    assert min(thinks) > -1e-6
    assert np.mean(thinks) == pytest.approx(10.0, rel=0.05)


def test_a_conversation_ends_where_its_model_does() -> None:
    """What would exceed the context is not asked, and counted."""
    notes = Notes()
    text = TALKS.replace("tokens = 1_000", "tokens = 100").replace("mean = 600", "mean = 100")
    requests = drawn(text, 1_000, models=["coster/demo"], notes=notes)

    assert all(a.prompt_tokens + a.max_tokens <= 1_024 for a in requests)
    assert notes[ENDED] > 50


def test_a_system_prompt_beyond_the_context_is_cut() -> None:
    """It leaves room for an answer, and has no more hashes than the prompt has blocks."""
    text = PLAIN + "prefixes = { count = 1, tokens = 5_000 }"
    for a in drawn(text, 100, models=["coster/demo"]):
        assert a.prompt_tokens + a.output_tokens <= 1_024
        assert len(a.prefix) == a.prompt_tokens // BLOCK_TOKENS


def test_means_are_those_of_what_is_drawn() -> None:
    """A rate that is a share of the fleet counts with the prompts that conversations really
    have, and with what a cache would spare.
    """
    (spec,) = workloads_of(TALKS, MODELS[:1])
    assert isinstance(spec, Synthetic)
    (mean,) = means_of(spec)
    requests = drawn(TALKS, 30_000, models=MODELS[:1])[10_000:]
    unread = []
    known: dict[str, int] = {}
    for a in requests:
        had = known.get(a.session, blocks_in(1_000)) * BLOCK_TOKENS
        unread.append(max(a.prompt_tokens - had, 1))
        known[a.session] = len(a.leaves)

    assert mean.turns == pytest.approx(4.0, rel=0.05)
    assert mean.prompt == pytest.approx(np.mean([a.prompt_tokens for a in requests]), rel=0.05)
    assert mean.output == pytest.approx(np.mean([a.output_tokens for a in requests]), rel=0.05)
    assert mean.unread == pytest.approx(np.mean(unread), rel=0.1)
    assert mean.unread < mean.prompt / 2


HASHES = st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=40)


@given(
    HASHES, st.sampled_from([16, 32, 128, 512]), st.integers(1, 20_000), st.integers(0, 2**64 - 1)
)
def test_blocks_of_other_sizes_keep_what_is_common(
    hashes: list[int], block_tokens: int, tokens: int, text: int
) -> None:
    """Two prompts that have n blocks of another size in common have as many tokens in common in
    blocks of ours, and not one block more.
    """
    mine = regrouped(tuple(hashes), block_tokens, tokens, text)
    other = regrouped((*hashes[:-1], hashes[-1] ^ 1), block_tokens, tokens, text)
    shared = (len(hashes) - 1) * block_tokens // BLOCK_TOKENS

    assert len(mine) <= blocks_in(tokens)
    assert len(mine) == min(blocks_in(tokens), len(hashes) * block_tokens // BLOCK_TOKENS)
    assert common(tuple(mine), tuple(other)) == min(shared, len(mine))
    assert not set(mine) & set(regrouped(tuple(hashes), block_tokens, tokens, text ^ 1))


# ── closed loops ──────────────────────────────────────────────────────────────────────


def played(
    source: Source, takes_s: Callable[[Arrival], float | None], status: str = "ok"
) -> list[Arrival]:
    """All that a source gives when each request takes so long; None: it is never answered."""
    running: list[tuple[float, int, Arrival]] = []
    asked: list[Arrival] = []
    over = False
    while True:
        due_s = source.next_s()
        over = over or source.over
        if running and (due_s is None or running[0][0] <= due_s):
            end_s, _, arrival = heapq.heappop(running)
            source.ended(Ended(arrival, status, e2e_s=end_s - arrival.at_s))
        elif due_s is None:
            assert over
            return asked
        else:
            assert not over, "it had said that nothing would come"
            arrival = source.take()
            assert arrival.at_s == due_s
            asked.append(arrival)
            seconds = takes_s(arrival)
            if seconds is None:
                source.ended(Ended(arrival, "open"))
            else:
                heapq.heappush(running, (arrival.at_s + seconds, arrival.number, arrival))


CLOSED = PLAIN.replace("rate_per_s = 20", "users = { count = 10, think_s = 5 }")
WAITING = PLAIN + "sessions = { turns = 4, think_s = 10, closed = true }\n"


def test_users_wait_for_their_answers() -> None:
    """Never more requests than users are under way, and each thinks between two."""
    asked = played(Source(workloads_of(CLOSED), Streams(1), requests=2_000), lambda a: 20.0)
    ends = [(a.at_s, 1) for a in asked] + [(a.at_s + 20.0, -1) for a in asked]
    under_way = np.cumsum([step for _, step in sorted(ends, key=lambda e: (e[0], e[1]))])
    by_user: dict[str, list[float]] = {}
    for a in asked:
        by_user.setdefault(a.session.split(".")[0], []).append(a.at_s)
    gaps = np.concatenate([np.diff(times) for times in by_user.values()])

    assert [a.number for a in asked] == list(range(2_000))
    assert max(under_way) == 10
    assert len(by_user) == 10
    assert gaps.min() >= 20.0
    assert gaps.mean() == pytest.approx(25.0, rel=0.05)


def test_a_slow_market_is_asked_less_often_in_a_closed_loop_only() -> None:
    """That is what closes it; an open loop asks the same, whatever becomes of it."""
    for text, changes in ((CLOSED, True), (WAITING, True), (PLAIN, False)):
        workloads = workloads_of(text)
        counts = [
            len(played(Source(workloads, Streams(1), duration_s=500), lambda a, s=s: s))  # type: ignore[misc]
            for s in (1.0, 60.0)
        ]

        assert (counts[0] > 1.1 * counts[1]) is changes, text


def test_a_closed_conversation_says_the_same_however_slow_its_answers_are() -> None:
    """What is asked is drawn when it begins: only the times depend on the market."""
    workloads = workloads_of(WAITING)
    said = []
    for seconds in (1.0, 40.0):
        source = Source(workloads, Streams(1), duration_s=300)
        sessions = by_session(played(source, lambda a, s=seconds: s))  # type: ignore[misc]
        for turns in sessions.values():
            for before, after in pairwise(turns):
                assert after.at_s >= before.at_s + seconds
        said.append({
            name: [(a.prompt_tokens, a.output_tokens, a.model, a.leaves) for a in turns]
            for name, turns in sessions.items()
        })  # fmt: skip

    assert said[0].keys() == said[1].keys()
    for name, turns in said[1].items():
        shorter = min(len(turns), len(said[0][name]))
        assert turns[:shorter] == said[0][name][:shorter]


def test_whoever_is_refused_gives_its_conversation_up() -> None:
    """No second turn after a refusal; a user begins another conversation after a while."""
    waiting = played(
        Source(workloads_of(WAITING), Streams(1), duration_s=200), lambda a: 1.0, "refused"
    )
    talking = CLOSED + "sessions = { turns = 5, think_s = 1 }"
    users = played(
        Source(workloads_of(talking), Streams(1), duration_s=200), lambda a: 1.0, "failed"
    )

    assert all(len(turns) == 1 for turns in by_session(waiting).values())
    assert all(len(turns) == 1 for turns in by_session(users).values())
    assert len(users) > 100


def test_a_request_that_is_never_answered_ends_its_user() -> None:
    """When the run is over nobody comes back, and nothing is waited for."""
    asked = played(Source(workloads_of(CLOSED), Streams(1)), lambda a: None)

    assert len(asked) == 10


def test_users_may_hold_conversations() -> None:
    """A user's turns go on from each other and its next conversation begins afresh."""
    talking = CLOSED + "sessions = { turns = 3, think_s = 1 }"
    sessions = by_session(
        played(Source(workloads_of(talking), Streams(1), requests=2_000), lambda a: 2.0)
    )

    assert np.mean([len(turns) for turns in sessions.values()]) == pytest.approx(3.0, rel=0.1)
    for turns in sessions.values():
        for before, after in pairwise(turns):
            assert after.prefix[: len(before.leaves)] == before.leaves


def test_closed_and_open_workloads_mix() -> None:
    """Their requests come in one order, and the open one's are as without the other."""
    users, plain = (
        text.replace("[[workload]]", f'[[workload]]\nname = "{name}"')
        for text, name in ((CLOSED, "users"), (PLAIN, "open"))
    )
    both = users + plain
    asked = played(Source(workloads_of(both), Streams(1), duration_s=60), lambda a: 3.0)
    alone = list(arrivals(workloads_of(plain), Streams(1), duration_s=60))

    assert all(before.at_s <= after.at_s for before, after in pairwise(asked))
    assert [a.at_s for a in asked if a.kind == "open"] == [a.at_s for a in alone]
    assert {a.kind for a in asked} == {"users", "open"}


def test_a_closed_loop_has_no_list_of_requests() -> None:
    """The iterator refuses it and says what to do."""
    with pytest.raises(InvalidRequest, match="closed loop"):
        next(arrivals(workloads_of(CLOSED), Streams(1)))


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
def test_whatever_answers_take_nothing_is_lost_or_early(seed: int, seconds: list[float]) -> None:
    """Under any answering times requests come in order and as many as were asked for, and no
    turn comes before the answer to the one before.
    """
    text = WAITING + CLOSED.replace("[[workload]]", '[[workload]]\nname = "users"')
    source = Source(workloads_of(text), Streams(seed), requests=150)
    taken = lambda a: seconds[a.number % len(seconds)]  # noqa: E731
    asked = played(source, taken)

    assert len(asked) == 150
    assert all(before.at_s <= after.at_s for before, after in pairwise(asked))
    for turns in by_session(asked).values():
        for before, after in pairwise(turns):
            assert after.at_s >= before.at_s + taken(before) - 1e-9
