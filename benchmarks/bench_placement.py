"""A placement plan: how long it is searched for, how good it is, and what it keeps from others.

Fleets are drawn from the hardware tables, models are the catalogue's and second quantisations of
them; demand is Zipf over the models and asks for more than half of what the fleet could do. Every
place is open, which is the hardest case: a live plan changes little, because most models stay.

Quality is the share of the linear relaxation's value, which no placement can exceed. What a
search keeps from others is measured by a Python thread that counts beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.figures import Report, Spread, percentile, read_options
from market.catalogue import CARDS, DEMO_MODEL
from market.hardware import CHIPS, hardware_of, memory_budget_bytes, profile_of
from market.placement.demand import PRIOR_MIX, Demand, Offered
from market.placement.draft import draft_of
from market.placement.exact import available, relaxed_bound, solve_exactly
from market.placement.plan import work_out
from market.placement.planner import Planner
from market.placement.problem import Problem
from market.placement.solve import solve, solve_simply
from market.placement.tables import tables_of
from market.placement.view import FleetView, MacView, ModelView
from market.placement.work import work_rate
from market.routing.messages import Place
from market.settings import PlacementSettings
from market.types import MachineId, ModelId, ModelSize

SIZES = ((10, 8), (50, 20), (100, 20))
LOADS = (0.7, 1.0, 1.5)
"""What is asked for, over what the fleet could do if every Mac served every model."""
GAP = 0.01
LIMIT_S = 10.0
TICK_S = 1e-3
LIVE = (250, 20)
"""The largest fleet that one router plans for."""


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=4)
    report = Report("placement", f"plans to a gap of {GAP:.0%}, every place open")
    report.fact("solver", "HiGHS through scipy" if available() else "none: scipy is missing")
    for macs, models in SIZES[:2] if asked.quick else SIZES:
        _plans(report, macs, models, asked.rounds)
    _beside(report, asked.rounds)
    _live(report, asked.rounds)
    report.show()


# ── plans ─────────────────────────────────────────────────────────────────────────────


def _plans(report: Report, macs: int, models: int, rounds: int) -> None:
    spent_s, share, proven, simple_s, simple_share = [], [], [], [], []
    for seed in range(rounds):
        for load in LOADS:
            problem = _problem(macs, models, seed, load)
            began_s = time.perf_counter()
            exact = solve(problem, GAP, LIMIT_S)
            spent_s.append(time.perf_counter() - began_s)
            relaxed = relaxed_bound(problem) if available() else exact.bound
            began_s = time.perf_counter()
            simple = solve_simply(problem)
            simple_s.append(time.perf_counter() - began_s)
            share.append(exact.value / (relaxed or exact.bound))
            proven.append(exact.share)
            simple_share.append(simple.value / (relaxed or simple.bound))
    what = f"{macs} Macs × {models} models"
    aim = "≤ 1" if (macs, models) == (50, 20) else ""
    report.row(f"{what}, exact", Spread.of(spent_s), "s", aim)
    report.row(f"{what}, exact / proven bound", Spread.of(proven), "×", "≥ 0.99")
    report.row(f"{what}, exact / linear bound", Spread.of(share), "×")
    report.row(f"{what}, without a solver", Spread.of(simple_s), "s")
    report.row(f"{what}, no solver / linear bound", Spread.of(simple_share), "×")


def _problem(macs: int, models: int, seed: int, load: float) -> Problem:
    """A fresh fleet, with every place open at once."""
    view, offered = _fleet(macs, models, seed, load)
    planner = Planner(PlacementSettings(), 0.0)
    planner.observe(view, 0.0)
    case = planner.case(0.0)
    problem = draft_of(replace(case, tables=tables_of(view, offered, 0.0))).problem
    return replace(problem, most_new=np.full(models, macs, dtype=np.int64))


def _fleet(
    macs: int, models: int, seed: int, load: float
) -> tuple[FleetView, dict[ModelId, Offered]]:
    random = np.random.default_rng(seed)
    sizes = _sizes(models)
    fleet = tuple(_mac(number, random) for number in range(macs))
    weights = 1.0 / random.permutation(np.arange(1, models + 1))
    offered = {}
    for size, weight in zip(sizes, weights / weights.sum(), strict=True):
        rates = [work_rate(mac.hardware, size, PRIOR_MIX, mac.slots) for mac in fleet]
        mean = load * weight * float(np.sum(rates))
        offered[size.model] = Offered(mean=mean, high=1.2 * mean, quiet_s=1.0)
    return FleetView(fleet, tuple(ModelView(size) for size in sizes)), offered


def _mac(number: int, random: np.random.Generator) -> MacView:
    chip = CHIPS[sorted(CHIPS)[int(random.integers(len(CHIPS)))]]
    memory_gb = chip.memory_gb[int(random.integers(len(chip.memory_gb)))]
    hardware = hardware_of(chip.name, memory_gb)
    return MacView(MachineId(f"mac_{number:03}"), hardware, memory_budget_bytes(memory_gb))


def _sizes(models: int) -> list[ModelSize]:
    """The catalogue's models that a single Mac can hold, then the same at half the bits."""
    sizes = []
    for card in (card for card in CARDS if card.id not in (DEMO_MODEL, "deepseek-v3")):
        profile = profile_of(card.id)
        sizes.append(
            ModelSize(
                card.id,
                profile.weight_bytes,
                profile.kv_bytes_per_token,
                profile.state_bytes,
                card.context_tokens,
                card.quantization,
            )
        )
    halves = [
        replace(size, model=ModelId(f"{size.model}-half"), weight_bytes=size.weight_bytes // 2)
        for size in sizes
    ]
    return [*sizes, *halves][:models]


# ── beside others ─────────────────────────────────────────────────────────────────────


def _beside(report: Report, rounds: int) -> None:
    """What a search in one thread keeps from the others of its process, as the router's loop.

    A counting thread shows whether the interpreter is let go of; one that wakes every millisecond
    shows how late a loop would be.
    """
    problem = _problem(50, 20, 1, 1.0)
    sides: dict[str, Callable[[], object]] = {
        "nothing": lambda: time.sleep(0.5),
        "HiGHS": lambda: solve_exactly(problem, GAP, LIMIT_S),
        "the search without a solver": lambda: solve_simply(problem),
    }
    for side, work in sides.items():
        counted, late = [], []
        for _ in range(rounds):
            alone = _beside_work(_count, sides["nothing"])
            counted.append(sum(_beside_work(_count, work)) / sum(alone))
            late.append(percentile(_beside_work(_tick, work), 99))
        report.row(f"beside {side}, a counting thread", Spread.of(counted), "of its speed alone")
        report.row(f"beside {side}, a wake-up is late by, p99", Spread.of(late), "ms")


Beside = Callable[[threading.Event, list[float]], None]


def _beside_work(beside: Beside, work: Callable[[], object]) -> list[float]:
    """What a thread notes while `work` runs in another."""
    done = threading.Event()
    noted: list[float] = []
    thread = threading.Thread(target=beside, args=(done, noted))
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return noted


def _count(done: threading.Event, noted: list[float]) -> None:
    """Notes how far it counts in a second."""
    count, began_s = 0, time.perf_counter()
    while not done.is_set():
        count += 1
    noted.append(count / (time.perf_counter() - began_s))


def _tick(done: threading.Event, noted: list[float]) -> None:
    """Notes how much later than asked it wakes, in milliseconds."""
    while not done.is_set():
        began_s = time.perf_counter()
        time.sleep(TICK_S)
        noted.append((time.perf_counter() - began_s - TICK_S) * 1e3)


# ── live ──────────────────────────────────────────────────────────────────────────────


def _live(report: Report, rounds: int) -> None:
    """What the router's own thread pays at the largest fleet, and a plan when little changes."""
    macs, models = LIVE
    view, _ = _fleet(macs, models, 0, 1.0)
    names = [model.size.model for model in view.models]
    settled = replace(view, macs=tuple(_loaded(mac, names) for mac in view.macs))
    planner = Planner(PlacementSettings(), 0.0)
    observed_ms, case_ms, plan_s = [], [], []
    for number in range(rounds * 5):
        began_s = time.perf_counter()
        planner.observe(settled, float(number))
        observed_ms.append((time.perf_counter() - began_s) * 1e3)
    for number in range(rounds):
        began_s = time.perf_counter()
        case = planner.case(100.0 + number)
        case_ms.append((time.perf_counter() - began_s) * 1e3)
        began_s = time.perf_counter()
        planner.adopt(work_out(case), 100.0 + number)
        plan_s.append(time.perf_counter() - began_s)
    what = f"{macs} Macs × {models} models"
    report.row(f"{what}, looking at the fleet, once a second", Spread.of(observed_ms), "ms")
    report.row(f"{what}, taking a case", Spread.of(case_ms), "ms")
    report.row(f"{what}, a plan where little changes", Spread.of(plan_s), "s")
    report.row(
        "counting one request", Spread.of([_arrivals_us() for _ in range(rounds)]), "µs", "< 2"
    )


def _loaded(mac: MacView, names: list[ModelId]) -> MacView:
    """As a fleet looks that has settled: each Mac has one of the small models."""
    model = names[4]
    return replace(mac, places=(Place(model, "ready", since_s=5000.0),))


def _arrivals_us() -> float:
    demand = Demand()
    names = [ModelId(f"bench/model-{number}") for number in range(20)]
    count = 100_000
    began_s = time.perf_counter()
    for number in range(count):
        demand.arrived(names[number % 20], 400.0, 200.0, number * 0.002)
    return (time.perf_counter() - began_s) / count * 1e6


if __name__ == "__main__":
    main()
