"""One experiment's setting as one file says it: fleet, models, workload, faults, limits.

The policy and the seed may be replaced by a command; everything else that a run depends on is
in here, so that a scenario's hash names what was simulated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from market.catalogue import Catalogue
from market.errors import InvalidRequest, MarketError
from market.fleet_file import MacSpec
from market.hardware import GIB, memory_budget_bytes, profile_of
from market.money import NANO_PER_USD
from market.settings import FEE_BPS_MAX, PlacementSettings
from market.types import ModelId
from simulator.setup.fleets import macs_of
from simulator.setup.policies import lab_policy
from simulator.setup.tables import Table
from simulator.workloads.parsing import parse
from simulator.workloads.spec import Workload
from simulator.world.faults import NO_FAULTS, Faults

KEYS: Final = (
    *("run", "fleet", "models", "workload", "faults", "placement", "market", "slo"),
    "policy",
)
CLASSES: Final = ("interactive", "batch")

REQUESTS_MAX = 100_000_000
DURATION_S_MAX = 366 * 86_400.0
REPEAT_MAX = 1_000
SEED_MAX = 2**63 - 1
WORKLOADS_MAX = 100
MODELS_MAX = 1_000
SLOTS_MAX = 1_024
CREDIT_USD_MAX = 1e9

FAULT_RANGES: Final = {"share": (0.0, 1.0), "factor": (0.01, 100.0)}
"""By the last word of a key; rates and durations are from 0 to 10,000."""


@dataclass(frozen=True, slots=True)
class Slo:
    """What a class of requests is promised: the first token within `ttft_s`, and then a token
    every `tpot_ms` on average.
    """

    ttft_s: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class MarketTerms:
    """The market's own settings. `credit_nano` is what each consumer begins with."""

    platform_fee_bps: int = 0
    credit_nano: int = 1_000_000 * NANO_PER_USD


@dataclass(frozen=True, slots=True)
class Scenario:
    """A setting. One of `requests` and `duration_s` may be None: no limit of that kind.

    `warmup_s` and `warmup_share` cut the beginning off the statistics; without either MSER-5
    finds where it ends. `config` is all of it as
    canonical JSON, the fleet's file included: it parses to an equal scenario.
    """

    name: str
    macs: tuple[MacSpec, ...]
    models: tuple[ModelId, ...]
    workloads: tuple[Workload, ...]
    config: str
    about: str = ""
    requests: int | None = None
    duration_s: float | None = None
    warmup_s: float | None = None
    warmup_share: float | None = None
    seed: int = 1
    repeat: int = 1
    slots: int = 32
    policy: str = "coster"
    faults: Faults = NO_FAULTS
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    market: MarketTerms = MarketTerms()
    slo: Mapping[str, Slo] = field(default_factory=lambda: dict(DEFAULT_SLO))

    @property
    def hash(self) -> str:
        """Names what was simulated: the setting without the policy, the seed and the repeats."""
        config = json.loads(self.config)
        config.pop("policy", None)
        for key in ("seed", "repeat"):
            config.get("run", {}).pop(key, None)
        return hashlib.sha256(canonical(config).encode()).hexdigest()


DEFAULT_SLO: Final[Mapping[str, Slo]] = {
    "interactive": Slo(ttft_s=5.0, tpot_ms=150.0),
    "batch": Slo(ttft_s=120.0, tpot_ms=1_000.0),
}


def canonical(value: object) -> str:
    """JSON in the one way: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def scenario_of(table: Table) -> Scenario:
    """A scenario from its table, in which the fleet's Macs are given in place.

    Raises InvalidRequest naming file, line, key and fix.
    """
    table.known(KEYS)
    config = _config(table)
    run = table.table("run")
    run.known(
        ("name", "about", "requests", "duration_s", "warmup_s", "warmup_share", "seed", "repeat")
    )
    fleet = table.table("fleet")
    fleet.known(("macs", "file", "slots"))
    if "file" in fleet.values:
        fleet.refuse("file", "here the Macs must be given in place, in macs.")
    macs = macs_of(fleet)
    scenario = Scenario(
        name=run.text("name", "unnamed", r"[\w.\-]{1,60}"),
        about=run.text("about", "", r".{0,300}"),
        macs=macs,
        models=_models(table, macs),
        workloads=_workloads(table),
        config=config,
        requests=run.whole("requests", None, 1, REQUESTS_MAX),
        duration_s=run.number("duration_s", None, 1e-3, DURATION_S_MAX, "seconds"),
        warmup_s=run.number("warmup_s", None, 0.0, DURATION_S_MAX, "seconds"),
        warmup_share=run.number("warmup_share", None, 0.0, 0.9),
        seed=run.whole("seed", 1, 0, SEED_MAX) or 0,
        repeat=run.whole("repeat", 1, 1, REPEAT_MAX) or 1,
        slots=fleet.whole("slots", 32, 1, SLOTS_MAX) or 1,
        policy=_policy(table),
        faults=_faults(table.table("faults")),
        placement=_placement(table.table("placement")),
        market=_market(table.table("market")),
        slo=_slo(table.table("slo")),
    )
    if scenario.requests is None and scenario.duration_s is None:
        run.refuse(None, "a run needs an end; give requests = 10_000, or duration_s = 3600.")
    if scenario.warmup_s is not None and scenario.warmup_share is not None:
        run.refuse("warmup_share", "give warmup_s or warmup_share, not both.")
    if scenario.warmup_s is not None and (scenario.duration_s or 1e18) <= scenario.warmup_s:
        run.refuse("warmup_s", "nothing is left after it; it must be less than duration_s.")
    return scenario


def _config(table: Table) -> str:
    """All of it as canonical JSON, which has no dates and only numbers that are numbers."""
    table.only_json()
    return canonical(dict(table.values))


def _models(table: Table, macs: tuple[MacSpec, ...]) -> tuple[ModelId, ...]:
    """The models on offer; each is in the catalogue and fits a Mac that may load it."""
    names = table.values.get("models")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        table.refuse("models", "it must be a list of ids, such as ['qwen3.5-7b'].")
    if not 0 < len(names) <= MODELS_MAX or len(set(names)) < len(names):
        table.refuse("models", f"give from 1 to {MODELS_MAX} models, each once.")
    catalogue = Catalogue()
    for name in names:
        try:
            catalogue.get(name)
        except MarketError as error:
            ids = ", ".join(catalogue.cards)
            raise InvalidRequest(
                f"{table.where('models')}: there is no model {name[:60]!r}; there are {ids}.",
                "scenario",
            ) from error
        _must_fit(table, ModelId(name), macs)
    for mac in macs:
        for model in mac.models:
            if model not in names:
                table.refuse("models", f"the Mac {mac.name} may load {model}, which is not listed.")
    return tuple(ModelId(name) for name in names)


def _must_fit(table: Table, model: ModelId, macs: tuple[MacSpec, ...]) -> None:
    need = profile_of(model).weight_bytes
    allowed = [mac for mac in macs if not mac.models or model in mac.models]
    if not allowed:
        table.refuse("models", f"no Mac of the fleet may load {model}; see their `models`.")
    room = max(memory_budget_bytes(mac.hardware.memory_gb) for mac in allowed)
    if need > room:
        table.refuse(
            "models",
            f"{model} fits no Mac of the fleet: its weights are {need / GIB:.1f} GiB and the "
            f"largest that may load it has room for {room / GIB:.1f} GiB. Add a larger Mac or "
            "leave the model out.",
        )


def _workloads(table: Table) -> tuple[Workload, ...]:
    workloads = table.tables("workload")
    if not 0 < len(workloads) <= WORKLOADS_MAX:
        table.refuse("workload", f"give from 1 to {WORKLOADS_MAX} of [[workload]].")
    return parse(workloads, [ModelId(name) for name in table.values["models"]])


def _policy(table: Table) -> str:
    name = table.text("policy", "coster", r"[\w\-]{1,60}")
    try:
        lab_policy(name)
    except MarketError as error:
        raise InvalidRequest(f"{table.where('policy')}: {error.message}", "policy") from error
    return name


def _faults(table: Table) -> Faults:
    """Every field of `Faults` is a key; what is said in shares and factors has its own range."""
    table.known(each.name for each in fields(Faults))
    values = {}
    for each in fields(Faults):
        unit = each.name.rsplit("_", 1)[-1]
        low, high = FAULT_RANGES.get(unit, (0.0, 10_000.0))
        values[each.name] = table.at_least(each.name, getattr(NO_FAULTS, each.name), low, high)
    return Faults(**values)


def _placement(table: Table) -> PlacementSettings:
    defaults = PlacementSettings()
    table.known(each.name for each in fields(PlacementSettings))
    return PlacementSettings(
        enabled=table.flag("enabled", defaults.enabled),
        every_s=table.at_least("every_s", defaults.every_s, 1.0, 86_400.0, "seconds"),
        residency_s=table.at_least("residency_s", defaults.residency_s, 0.0, 1e6, "seconds"),
        swaps_per_hour=table.whole("swaps_per_hour", defaults.swaps_per_hour, 0, 3_600) or 0,
        replicas=table.whole("replicas", defaults.replicas, 0, 1_000) or 0,
        gap=table.at_least("gap", defaults.gap, 0.0, 1.0),
        solve_s=table.at_least("solve_s", defaults.solve_s, 0.01, 60.0, "seconds"),
    )


def _market(table: Table) -> MarketTerms:
    table.known(("platform_fee_bps", "credit_usd"))
    credit_usd = table.at_least("credit_usd", 1e6, 0.0, CREDIT_USD_MAX, "dollars")
    return MarketTerms(
        platform_fee_bps=table.whole("platform_fee_bps", 0, 0, FEE_BPS_MAX) or 0,
        credit_nano=round(credit_usd * NANO_PER_USD),
    )


def _slo(table: Table) -> dict[str, Slo]:
    table.known(CLASSES)
    promised = {}
    for name in CLASSES:
        entry, default = table.table(name), DEFAULT_SLO[name]
        entry.known(("ttft_s", "tpot_ms"))
        promised[name] = Slo(
            ttft_s=entry.at_least("ttft_s", default.ttft_s, 1e-3, 86_400.0, "seconds"),
            tpot_ms=entry.at_least("tpot_ms", default.tpot_ms, 1e-3, 1e7, "milliseconds"),
        )
    return promised
