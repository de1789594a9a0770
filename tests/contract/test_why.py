"""Why, for a thousand requests at random: what the router tells of each, a restart later.

Through the router's own class and its SQLite log: decisions of several policies over a fleet that
changes all the time, with wishes, queues, retries, second tries and answers that go on elsewhere.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from actors.router import Router
from market.errors import MarketError
from market.messages import Funding
from market.policy import decision as deciding
from market.policy.ask import Ask
from market.policy.candidates import BoolArray, Candidates
from market.policy.counterfactual import SHOWN_MAX, regret_ms
from market.policy.decision import Decision, all_reasons, decide, materialise
from market.policy.filters import FILTERS, Filter
from market.policy.picker import (
    EXPLORE_WORST,
    KNOWN_AFTER,
    TIE_WINDOW_MS,
    TIE_WINDOW_SHARE,
    near_ties,
)
from market.policy.preferences import Preferences
from market.policy.prefixes import block_hashes
from market.policy.registry import policy_named
from market.routing.messages import Busy, Grant, Outcome, ProviderBeat, RouteRequest
from market.routing.notes import replay
from market.types import MachineId, ModelId, ProviderId, RequestId
from tests.router_kit import FACTS, MODEL, gateway_beat, provider_beat, request

FINISHED = 10_000 if os.environ.get("COSTER_LONG") else 1_000
MODELS = (MODEL, ModelId("m/other"))
MACS = "abcdefghijkl"
POLICIES = ("coster", "coster", "coster", "least_weighted", "openrouter", "coster-price", "sglang")
RESULTS = (*("ok",) * 12, "failed", "rejected", "cancelled")
WAITING_MAX = 12
POLICY_STEPS = 20
STATES = ("ready",) * 6 + ("draining", "starting", "failing")


@dataclass
class Life:
    """One gateway and its Macs, at random, against one router."""

    router: Router
    random: Random
    number: int = 0
    running: dict[RequestId, tuple[Grant, RouteRequest]] = field(default_factory=dict)
    waiting: dict[RequestId, RouteRequest] = field(default_factory=dict)
    finished: list[RequestId] = field(default_factory=list)

    async def go(self, count: int) -> None:
        step = 0
        while len(self.finished) < count:
            if step % 8 == 0:
                for name in MACS:
                    await self.router.heartbeat(self.beat(name))
            if step % POLICY_STEPS == 0:
                await self.router.use_policy(POLICIES[step // POLICY_STEPS % len(POLICIES)])
            await self.ask([self.wish() for _ in range(self.random.randint(1, 6))])
            await self.poll()
            for name in self.random.sample(sorted(self.running), len(self.running) // 4):
                await self.end(name)
            step += 1

    def beat(self, name: str) -> ProviderBeat:
        random = Random(name)  # what a Mac is never changes
        beat = provider_beat(
            name,
            slots=random.randint(1, 6),
            bandwidth_gbs=random.choice([68.0, 200.0, 400.0, 800.0]),
            models=tuple(
                replace(FACTS, model=model, quantization=random.choice(["4bit", "8bit"]))
                for model in MODELS[: random.randint(1, 2)]
            ),
            running=self.random.randint(0, 3),
            decode_tps=self.random.choice([0.0, self.random.uniform(5, 90)]),
            state=self.random.choice(STATES),
        )
        return replace(
            beat,
            ask_pct=random.randint(40, 100),
            trust=random.choice(["basic", "verified"]),
            memory_bytes=12_000_000_000,
        )

    def wish(self) -> RouteRequest:
        random, uniform = self.random, self.random.uniform
        self.number += 1
        prompt = random.randint(1, 1500)
        named = tuple(ProviderId(f"prv_{name}") for name in random.sample(MACS, 5))
        wishes: list[dict[str, Any]] = [
            {},
            {},
            {},
            {"sort": random.choice(["price", "latency", "throughput"])},
            {"only": named},
            {"order": named[:2]},
            {"ignore": named},
            {"max_price_out_nano": random.randint(300, 800)},
            {"trust": "verified"},
            {"quantizations": ("8bit",)},
            {"preferred_min_tps": random.uniform(5, 60)},
            {"preferred_max_latency_ms": random.uniform(20, 2000)},
            {"own": "prefer", "own_machines": (MachineId("mac_b"), MachineId("mac_e"))},
        ]
        return replace(
            request(
                f"req_{self.number}",
                queue=len(self.waiting) < WAITING_MAX,
                consumer=f"acct_{random.randint(1, 5)}",
                n=random.choice([1, 1, 1, 2]),
                prompt_tokens=prompt,
                max_tokens=random.randint(1, 400),
            ),
            model=random.choice(MODELS),
            request_class=random.choice(["interactive", "batch"]),
            preferences=Preferences(**random.choice(wishes)),
            price_in_nano=100,
            price_out_nano=700,
            finish_by_s=random.choice([None, None, uniform(0.1, 3), uniform(0.5, 60)]),
            prefix=block_hashes([random.randint(0, 1)] * prompt, "acct", MODEL),
            session=random.choice(["", "talk"]),
        )

    async def ask(self, asked: list[RouteRequest]) -> None:
        for told, reply in zip(asked, await self.router.route(asked), strict=True):
            if isinstance(reply, Grant):
                self.running[told.request_id] = (reply, told)
            elif isinstance(reply, Busy) and told.funding is not None:
                self.waiting[told.request_id] = told
            elif isinstance(reply, MarketError) and told.attempt == 1:
                self.finished.append(told.request_id)

    async def poll(self) -> None:
        beat = gateway_beat(
            *(grant for grant, _ in self.running.values()), queued=tuple(self.waiting)
        )
        for letter in await self.router.poll(beat, 0.0):
            told = self.waiting.pop(letter.request_id)
            if isinstance(letter, Grant):
                self.running[letter.request_id] = (letter, told)
            else:
                self.finished.append(letter.request_id)

    async def end(self, name: RequestId) -> None:
        """An attempt ends; a failed one is tried again, or goes on elsewhere after some tokens."""
        random = self.random
        grant, told = self.running.pop(name)
        result = random.choice(RESULTS)
        final = result in ("ok", "cancelled") or told.attempt == 3
        said = random.randint(2, 90)
        outcome = Outcome(
            name,
            grant.attempt,
            grant.machine,
            result,
            final,
            completion_tokens=said,
            ttft_ms=random.uniform(20, 900),
            total_ms=random.uniform(900, 9000),
            prefix=told.prefix,
        )
        await self.router.report([outcome])
        if final:
            self.finished.append(name)
            return
        goes_on = random.random() < 0.5 and told.n == 1
        again = replace(
            told,
            attempt=told.attempt + 1,
            excluded=(*told.excluded, grant.machine),
            digest=grant.digest if goes_on else "",
            said_tokens=min(said, told.max_tokens - 1) if goes_on else 0,
            finish_by_s=None if goes_on else told.finish_by_s,
            funding=Funding(1, 0),
        )
        await self.ask([again])
        if name not in self.running and name not in self.waiting:
            self.finished.append(name)  # nobody else could take it


def assert_the_least_won(decision: Decision) -> None:
    """By the rule of its policy: the lowest total; or, where near-ties are equal, within their
    window; or, rarely and never beyond twice the best, a Mac of which little is known.
    """
    assert decision.index is not None
    assert decision.view is not None
    eligible = decision.view.eligible
    total = decision.total_ms()
    best_ms, own_ms = float(total[eligible].min()), float(total[decision.index])
    assert eligible[decision.index]
    if own_ms <= best_ms:
        return
    assert policy_named(decision.policy).pick is near_ties
    assert decision.ask.preferences.sort is None
    if own_ms <= best_ms + max(TIE_WINDOW_MS, TIE_WINDOW_SHARE * best_ms):
        load = decision.candidates["in_flight"] / np.maximum(decision.candidates["slots"], 1)
        tied = eligible & (total <= best_ms + max(TIE_WINDOW_MS, TIE_WINDOW_SHARE * best_ms))
        if decision.candidates["seen"][decision.index] >= KNOWN_AFTER:
            assert load[decision.index] == load[tied].min()
        return
    assert decision.candidates["seen"][decision.index] < KNOWN_AFTER
    assert own_ms <= EXPLORE_WORST * best_ms


def without(reason: str, at: int) -> tuple[Filter, ...]:
    """The filters, one of which has nothing against this one Mac."""

    def forgiving(rule: Filter) -> Filter:
        def passes(candidates: Candidates, ask: Ask) -> BoolArray | None:
            passed = rule.passes(candidates, ask)
            if passed is None:
                return None
            forgiven: BoolArray = passed.copy()
            forgiven[at] = True
            return forgiven

        return replace(rule, passes=passes)

    return tuple(forgiving(rule) if rule.name == reason else rule for rule in FILTERS)


def winners(decision: Decision, refused: bool, patch: pytest.MonkeyPatch) -> set[ProviderId]:
    """Who is chosen, and in time, when the decision is made again without what ruled it out."""
    found = set()
    for at, reasons in enumerate(all_reasons(decision)):
        for reason in reasons:
            with patch.context() as changed:
                changed.setattr(deciding, "FILTERS", without(reason, at))
                policy = policy_named(decision.policy)
                again = decide(decision.candidates, decision.ask, decision.seed, policy)
            late = again.late(at) and (refused or decision.index is None)
            if again.index == at and at != decision.index and not late:
                found.add(decision.candidates.name(at).provider)
    return found


def assert_changes(
    changes: list[dict[str, Any]], decision: Decision, refused: bool, patch: pytest.MonkeyPatch
) -> int:
    """Whoever is said to have won wins without its reason, and nobody else is said to; how many."""
    told = {change["provider"] for change in changes if change["would_win"]}
    won = winners(decision, refused, patch)
    late = {w.provider for at, w in enumerate(decision.candidates.who()) if decision.late(at)}
    assert told <= won
    assert told == won - late or len(told) == SHOWN_MAX
    asides = {verdict.provider: verdict.aside for verdict in materialise(decision)}
    for change in changes:
        assert ("better, if" in change["words"]) <= change["would_win"]
        if change["reason"] is None and not refused:
            aside = asides[change["provider"]]
            assert ("set aside" in change["words"]) == (aside is not None)
            assert ("tie window" not in change["words"]) or change["gain_ms"] == 0
    return len(told)


async def test_why_is_true_of_a_thousand_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart: terms add up to totals, the winner is the least, each candidate is told
    once, the decision made again from what was stored is the same decision, and whoever is said
    to have won without its reason is chosen when the decision is made again without it.
    """
    first = Router(tmp_path / "router.db")
    await first.start()
    life = Life(first, Random(5))
    await life.go(FINISHED)
    await first.close()

    router = Router(tmp_path / "router.db")
    await router.start()
    told = decided = explored = changed = refused = 0
    policies: set[str] = set()
    for name in life.finished:
        story = await router.explain(name)
        assert story is not None
        assert json.loads(json.dumps(story)) == story
        assert story["state"] == "ended"
        for attempt in story["attempts"]:
            record = attempt["decision"]
            assert record is not None
            decision = await _replayed(router, name, attempt["attempt"])
            turned_away = record["refusal"] is not None
            changed += assert_changes(record["changes"], decision, turned_away, monkeypatch)
            if turned_away:
                assert record["chosen"] is None
                refused += decision.index is not None
                continue
            assert attempt["outcome"] is not None
            _assert_record(record, decision)
            assert_the_least_won(decision)
            policies.add(decision.policy)
            explored += regret_ms(decision) > 0
            decided += 1
        _assert_verdicts(story)
        told += 1
    await router.close()

    assert told >= FINISHED
    assert policies == set(POLICIES)
    assert min(changed, refused) > 0
    print(f"{told} requests, {decided} decisions replayed, {explored} of them by a tie or a try")
    print(f"{changed} would have won, {refused} were refused though a Mac was free")


async def _replayed(router: Router, name: RequestId, attempt: int) -> Decision:
    packed = await router._store.packed_of(name, attempt)
    assert packed is not None
    return replay(packed)


def _assert_record(record: dict[str, Any], decision: Decision) -> None:
    """What is stored of a decision is what it is when it is made again."""
    assert decision.chosen is not None
    assert record["policy"] == decision.policy
    assert record["faults"] == []
    chosen = [c["provider"] for c in record["candidates"] if c["chosen"]]
    assert chosen == [record["chosen"]] == [f"prv_{decision.chosen.removeprefix('mac_')}"]
    verdicts = {v.provider: v for v in materialise(decision)}
    for candidate in record["candidates"]:
        terms = candidate["terms_ms"]
        assert candidate["total_ms"] == pytest.approx(sum(terms.values()), abs=1e-2, rel=1e-6)
        verdict = verdicts[candidate["provider"]]
        assert candidate["total_ms"] == pytest.approx(verdict.total_ms, abs=1e-3)
        assert terms == {n: pytest.approx(ms, abs=1e-3) for n, ms in verdict.terms_ms}
    assert record["macs"] == len(verdicts)
    assert record["ruled_out"] == decision.counts


def _assert_verdicts(story: dict[str, Any]) -> None:
    """Every candidate of the last attempt once, and nobody without a reason or a total."""
    verdicts = story["verdicts"]
    assert len({v["provider"] for v in verdicts}) == len(verdicts)
    last = story["attempts"][-1]["decision"]
    assert [v["provider"] for v in verdicts if v["chosen"]] == (
        [last["chosen"]] if last["chosen"] else []
    )
    for verdict in verdicts:
        if verdict["reason"] is None:
            total_ms = pytest.approx(sum(verdict["terms_ms"].values()))
            assert verdict["total_ms"] == total_ms
        else:
            assert verdict["total_ms"] is None
