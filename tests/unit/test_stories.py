"""Laws of explanations: true, complete, and the same wherever they are told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from market.errors import MarketError
from market.policy.counterfactual import changes, regret_ms
from market.policy.decision import materialise
from market.policy.preferences import Preferences
from market.policy.rates import Rates
from market.routing.macs import Mac
from market.routing.messages import Place
from market.routing.stories import story_of
from market.types import MachineId, ProviderId, RequestId
from market.verdicts import Standing, judge
from tests.fleet_kit import FAST, busy, choose, fleet_of, standing, wish
from tests.router_kit import (
    FACTS,
    MODEL,
    granted,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)

MAC_A = MachineId("mac_a")


# ── what would have changed ───────────────────────────────────────────────────────────


def test_a_change_that_is_said_to_win_wins_when_it_is_made() -> None:
    """The Mac said to have been better is chosen once what ruled it out is gone."""
    fleet = fleet_of({"chip": FAST, "slots": 1}, {"chip": "M1"})
    busy(fleet, 0, 1)
    decision = choose(fleet)
    (change,) = changes(decision)
    assert (decision.chosen, change.provider, change.reason) == ("mac_1", "prv_0", "no_slot")
    assert change.would_win
    assert change.gain_ms is not None
    assert change.gain_ms > 0
    assert "if one of its requests ended" in change.words
    fleet.set(MachineId("mac_0"), slots=2.0)
    again = choose(fleet)
    assert again.chosen == "mac_0"
    gained = again.total_ms()[1] - again.total_ms()[0]
    assert gained == pytest.approx(change.gain_ms, rel=0.01)


def test_a_loser_is_told_by_how_much_and_by_what() -> None:
    """The difference of the totals, and the term that makes most of it."""
    fleet = fleet_of({"chip": FAST}, {"chip": FAST, "prefill_until_s": 4.0})
    decision = choose(fleet)
    (change,) = changes(decision)
    total = decision.total_ms()
    assert not change.would_win
    assert change.gain_ms == pytest.approx(total[0] - total[1])
    assert "most of it by prefill" in change.words


def test_nobody_chosen_is_told_what_each_would_have_needed() -> None:
    """Where no Mac could take it, every one has its reason and its remedy."""
    fleet = fleet_of({"standing": standing("draining")}, {"in_flight": 4})
    told = {change.provider: change.words for change in changes(choose(fleet))}
    assert told == {
        "prv_0": "It could be used if it were undrained.",
        "prv_1": "It could be used if one of its requests ended.",
    }


def test_who_was_set_aside_is_told_by_which_wish() -> None:
    """However good it is: its wish decided, and not a tie."""
    decision = choose(fleet_of({"chip": FAST}, {}), **wish(order=(ProviderId("prv_1"),)))
    (change,) = changes(decision)
    assert (change.provider, change.would_win) == ("prv_0", False)
    assert change.words == "It was set aside: others meet order."


def test_a_mac_whose_speed_is_not_known_is_not_said_to_be_better() -> None:
    """One that is still starting has no rates, and no gain is made of that."""
    fleet = fleet_of({}, {"standing": standing("starting")})
    fleet.set_place(MachineId("mac_1"), MODEL, 0, Rates((1.0,) * 6, 0.0, 0.0), None)
    (change,) = changes(choose(fleet))
    assert (change.reason, change.would_win, change.gain_ms) == ("starting", False, None)
    assert change.words.endswith("if it had started; how fast it is is not known yet.")


def test_every_reason_is_told_and_one_of_two_wins_nothing() -> None:
    """To lift one of them would not have been enough."""
    fleet = fleet_of({}, {"chip": FAST, "standing": standing("draining")})
    (change,) = changes(choose(fleet, **wish(only=(ProviderId("prv_0"),))))
    assert change.reasons == ("not_only", "draining")
    assert not change.would_win
    assert change.words == (
        "It could have been used if provider.only named it and it were undrained."
    )


def test_a_refusal_is_no_choice() -> None:
    """Whom the deadline refuses is nobody's, and told how long each Mac would have taken."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    asked = replace(request("r", max_tokens=5000), finish_by_s=0.2)
    error = route_one(state, asked)
    assert isinstance(error, MarketError)
    assert error.code == "deadline_infeasible"
    story = state.story(RequestId("r"))
    assert story is not None
    assert [verdict["chosen"] for verdict in story["verdicts"]] == [False, False]
    assert all("the deadline is 0.2 s" in change["words"] for change in story["changes"])
    for mac in ("mac_a", "mac_b"):
        told = state.machine_story(MachineId(mac), 10.0)
        assert told is not None
        assert [decision["chosen"] for decision in told["decisions"]] == [False]


def test_a_mac_set_aside_did_not_lose_by_its_score() -> None:
    """Its latest decisions name the wish, and no difference of scores."""
    state = settled_router(provider_beat("a", bandwidth_gbs=800.0), provider_beat("b"))
    wished = Preferences(order=(ProviderId("prv_b"),))
    assert granted(state, replace(request("r"), preferences=wished)).machine == "mac_b"
    story = state.machine_story(MAC_A, 10.0)
    assert story is not None
    (told,) = story["decisions"]
    assert (told["aside"], told["behind_ms"]) == ("order", None)


def test_choosing_the_best_has_no_regret() -> None:
    """Regret is what a tie, or exploring, cost by the score itself."""
    fleet = fleet_of({"chip": FAST}, {"chip": "M1"})
    assert regret_ms(choose(fleet)) == 0.0
    assert regret_ms(choose(fleet_of())) == 0.0


def test_a_story_names_every_mac_once_and_is_json() -> None:
    """Verdicts are complete; terms sum to totals; what cannot be written as JSON is not in it."""
    fleet = fleet_of({}, {"chip": FAST}, {"standing": standing("lost")}, {"in_flight": 4})
    decision = choose(fleet)
    story = json.loads(json.dumps(story_of(decision)))
    assert [v["provider"] for v in story["verdicts"]] == ["prv_0", "prv_1", "prv_2", "prv_3"]
    assert [v["chosen"] for v in story["verdicts"]].count(True) == 1
    for verdict in story["verdicts"]:
        if verdict["reason"] is None:
            assert verdict["total_ms"] == pytest.approx(sum(verdict["terms_ms"].values()))
    assert len(materialise(decision)) == 4


# ── verdicts ──────────────────────────────────────────────────────────────────────────

VERDICTS = [
    (Standing("ok", ready=("m",)), "EARNING", "waiting for work"),
    (Standing("ok", ready=("m",), in_flight=3), "EARNING", "3 requests"),
    (Standing("ok", ready=("m",), cap=2, slots=8), "REDUCED", "beyond 2 at a time"),
    (Standing("ok", ready=("m",), failed=(("x", "no space"),)), "REDUCED", "no space"),
    (Standing("ok"), "NOT EARNING", "no model"),
    (Standing("ok", loading=("m",)), "NOT EARNING", "loading m"),
    (Standing("ok", failed=(("x", "no space"),)), "NOT EARNING", "no space"),
    (Standing("ok", ready=("m",), cooling_s=9.0), "NOT EARNING", "in 9 s"),
    (Standing("ok", ready=("m",), suspect=True, silent_s=4.0), "NOT EARNING", "silent for 4.0 s"),
    (Standing("starting", "loading the model"), "NOT EARNING", "loading the model"),
    (Standing("failing", "the engine stopped"), "NOT EARNING", "the engine stopped"),
    (Standing("draining", drain="update", in_flight=2), "NOT EARNING", "2 requests left"),
    (Standing("quarantined", quarantine="odd"), "NOT EARNING", "odd"),
    (Standing("stopped", "the operator"), "OFFLINE", "the operator"),
    (Standing("lost", silent_s=70.0), "OFFLINE", "70 s ago"),
]


@pytest.mark.parametrize(("mac", "word", "said"), VERDICTS)
def test_a_verdict_is_one_word_one_reason_and_one_fix(mac: Standing, word: str, said: str) -> None:
    """The worst thing is named with what would change it; a Mac that waits is earning."""
    verdict = judge(mac)
    assert verdict.word == word
    assert said in verdict.reason
    assert bool(verdict.fix) == (word != "EARNING")


def test_the_worst_thing_comes_first() -> None:
    """A lost Mac that was also drained and failing is lost."""
    everything = Standing("lost", drain="x", quarantine="y", cooling_s=1.0, failed=(("m", "z"),))
    assert judge(everything).word == "OFFLINE"


# ── a Mac's story ─────────────────────────────────────────────────────────────────────


def test_a_macs_story_says_what_it_could_take_and_what_it_lost() -> None:
    """Verdict, the gate of each model, and the latest decisions it was a candidate of."""
    state = settled_router(provider_beat("a", slots=1), provider_beat("b", slots=1))
    first = granted(state, request("r"))
    story = state.machine_story(first.machine, 10.0)
    assert story is not None
    assert story["verdict"] == "EARNING"
    assert story["models"][0]["gate"] == "no_slot"
    assert story["models"][0]["would_help"] == "one of its requests ended"
    other = granted(state, request("q"))
    told = state.machine_story(first.machine, 10.0)
    assert told is not None
    assert [(d["request_id"], d["chosen"], d["reason"]) for d in told["decisions"]] == [
        ("q", False, "no_slot"),
        ("r", True, None),
    ]
    assert other.machine != first.machine
    assert state.machine_story(MachineId("mac_none"), 10.0) is None


def test_a_model_that_does_not_load_leaves_the_others_serving() -> None:
    """One failed place makes a Mac REDUCED with the reason; the other model is served."""
    beat = provider_beat("a")
    places = (
        Place(FACTS.model, "ready", "", 1.0, FACTS, beat.stats),
        Place(FACTS.model.__class__("m/other"), "failed", "its file is damaged", 5.0),  # type: ignore[arg-type]
    )
    state = settled_router(replace(beat, places=places))
    (told,) = state.status(10.0)["macs"]
    assert (told["verdict"], told["models"]) == ("REDUCED", ["coster/demo", "m/other"])
    assert "its file is damaged" in told["verdict_reason"]
    granted(state, request("r"))


def test_the_queue_is_told_in_the_order_in_which_it_is_served() -> None:
    """Who waits, since when, and what is predicted; the prediction grows along the line."""
    state = settled_router(provider_beat("a", slots=1))
    running = granted(state, request("r", max_tokens=5))
    for name in ("w1", "w2", "w3"):
        route_one(state, request(name, queue=True, max_tokens=5))
    (queue,) = state.queue_story(11.0)
    waits = [entry["predicted_wait_s"] for entry in queue["requests"]]
    assert [entry["request_id"] for entry in queue["requests"]] == ["w1", "w2", "w3"]
    assert waits == sorted(waits)
    state.report([outcome(running)], 11.0)
    assert state.queue_story(11.0)[0]["waiting"] == 2


def test_a_mac_that_leaves_often_is_riskier_than_one_that_stays() -> None:
    """Losses are remembered over absences and raise the chance of the next one."""
    state = settled_router(provider_beat("a"), provider_beat("b"))
    now_s = 10.0
    for second in range(1, 401):
        now_s += 1.0
        here = second % 100 < 50
        if second % 100 == 50:
            state.machine_lost(MAC_A, "closed its lid", now_s)
        if here:
            state.beat_provider(provider_beat("a", incarnation=second // 100 + 1), now_s)
        state.beat_provider(provider_beat("b"), now_s)
        state.tick(now_s)
    macs: dict[str, Mac] = {mac.beat.machine: mac for mac in state._desk.macs}
    assert macs["mac_a"].losses == 4
    assert macs["mac_a"].hazard_per_ms() > 3 * macs["mac_b"].hazard_per_ms()


def test_calibration_of_the_whole_answer_counts_its_length_too() -> None:
    """Answers that always take three times as long as predicted in all have a bias of three."""
    state = settled_router(provider_beat("a"))
    for number in range(20):
        grant = granted(state, request(f"r{number}"))
        (held,) = state._desk.reservations
        whole_ms = 3.0 * (held.ends_s - held.granted_s) * 1e3
        state.report([replace(outcome(grant), total_ms=whole_ms)], 10.0)
    told = state.calibration()["coster/demo"]["total"]
    assert isinstance(told, dict)
    assert (told["requests"], told["bias"]) == (20, pytest.approx(3.0, rel=0.01))
    assert told["within_p90"] < 0.5


def test_calibration_counts_what_was_predicted_against_what_came() -> None:
    """A model whose first tokens always take twice as long has a bias of two, then learns it."""
    state = settled_router(provider_beat("a"))
    biases = []
    for number in range(120):
        now_s = 10.0 + number * 0.01
        grant = granted(state, request(f"r{number}"), now_s)
        ended = replace(outcome(grant), ttft_ms=2.0 * grant.predicted_ttft_ms, total_ms=1e4)
        state.report([ended], now_s)
        biases.append(grant.predicted_ttft_ms)
    told = state.calibration()["coster/demo"]
    assert told["requests"] == 120
    assert told["bias"] == pytest.approx(2.0, rel=0.01)
    assert told["total"]["requests"] == 120
    assert biases[-1] > 1.5 * biases[0]


def test_a_private_mac_learns_and_is_not_counted() -> None:
    """Whether it was private from the start or became so: its errors correct its own predictions
    and stay out of what everybody can read.
    """
    state = settled_router(provider_beat("a"))

    def served(number: int) -> float:
        grant = granted(state, request(f"r{number}"), 10.0)
        late = replace(outcome(grant), ttft_ms=2.0 * grant.predicted_ttft_ms, total_ms=1e4)
        state.report([late], 10.0)
        return grant.predicted_ttft_ms

    first_ms = served(0)
    state.beat_provider(replace(provider_beat("a"), private=True), 10.0)
    last_ms = [served(number) for number in range(1, 61)][-1]
    assert state.calibration()["coster/demo"]["requests"] == 1
    assert last_ms > 1.2 * first_ms

    private = settled_router(replace(provider_beat("a"), private=True))
    private.report([replace(outcome(granted(private, request("r"))), ttft_ms=9.0)], 11.0)
    assert private.calibration() == {}
