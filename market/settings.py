"""What an operator may decide about a market, as one frozen value.

Built once by the composition root from defaults, a file, the environment and flags, then
handed to every actor. Nothing below reads the environment. Every limit has a name and a
unit here or beside the rule it bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.errors import InvalidRequest
from market.money import NANO_MAX
from market.types import AccountId, Hardware, MachineId, ModelId, ProviderId

ENGINES = ("mlx", "simulated", "echo")
TRANSPORTS = ("framed", "ray_stream")
MACS_MAX = 256
"""One Ray cluster is planned at 250 Mac nodes at most; larger markets federate."""
GATEWAYS_MAX = 16
GROUP_MIN_MAX = 1_000
FEE_BPS_MAX = 10_000
PACE_MS_MAX = 60_000.0
CARD_CENTS_MIN = 50
"""Less cannot be paid by card."""
CENTS_MAX = 99_999_999
"""The largest sum the payment processor takes at once: $999,999.99."""

DEMO_CONSUMER = AccountId("acct_demo_consumer")
DEMO_PROVIDER = AccountId("acct_demo_provider")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a served model's files are: a local folder or a hub id; "" is the demo model."""

    model: ModelId
    source: str = ""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Which engine the Macs run. `slots` bounds the sequences decoded at once.

    `pace_ms` is the echo engine's time between tokens. `memory_bytes_budget` of None lets
    the engine read what the machine recommends.
    """

    kind: str = "mlx"
    slots: int = 32
    pace_ms: float = 0.0
    memory_bytes_budget: int | None = None


@dataclass(frozen=True, slots=True)
class MacSettings:
    """One Mac of the market and whose it is.

    `labels` pin its actor to a Ray node; empty means any node. `bind_host` is where its
    framed connection listens. It asks `ask_pct` per cent of the market's prices and may load
    `models` only; empty is all the market serves. A `private` one enters no public figure.
    """

    machine: MachineId
    provider: ProviderId
    name: str
    owner: AccountId
    hardware: Hardware
    labels: tuple[tuple[str, str], ...] = ()
    bind_host: str = "127.0.0.1"
    ask_pct: int = 100
    trust: str = "basic"
    models: tuple[ModelId, ...] = ()
    private: bool = False


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """How models are placed on Macs. Off, every Mac keeps the first model that fits.

    A plan is made every `every_s` seconds and when something urgent happens. A model that is
    asked for stays loaded for `residency_s` at least, a Mac swaps at most `swaps_per_hour` times,
    and each model is kept on `replicas` Macs where that many can hold it. `gap` is how far from
    the optimum a plan may be, `solve_s` how long it may be searched for.
    """

    enabled: bool = True
    every_s: float = 30.0
    residency_s: float = 600.0
    swaps_per_hour: int = 6
    replicas: int = 1
    gap: float = 0.01
    solve_s: float = 2.0


@dataclass(frozen=True, slots=True)
class PaymentSettings:
    """How money comes in and goes out. Sums in cents of USD.

    `stripe_base` is where Stripe's API is; "" is Stripe itself when there is an API key,
    else the embedded test Stripe. The payout fee is the platform's own, taken from what is
    withdrawn. New accounts top up at most `topup_new_day_cents` on their first days.
    `public_url` is where payers are sent back to, "" for the market's own address.
    """

    stripe_base: str = ""
    topup_min_cents: int = 500
    topup_max_cents: int = 100_000
    topup_day_cents: int = 200_000
    topup_new_day_cents: int = 50_000
    withdraw_min_cents: int = 100
    payout_min_cents: int = 1_000
    payout_fee_cents: int = 0
    payout_fee_bps: int = 0
    weekly_payouts: bool = True
    public_url: str = ""

    def __post_init__(self) -> None:
        _between("topup_min_cents", self.topup_min_cents, CARD_CENTS_MIN, CENTS_MAX)
        _between("topup_max_cents", self.topup_max_cents, self.topup_min_cents, CENTS_MAX)
        for name in ("topup_day_cents", "topup_new_day_cents", "payout_fee_cents"):
            _between(name, getattr(self, name), 0, CENTS_MAX)
        for name in ("withdraw_min_cents", "payout_min_cents"):
            _between(name, getattr(self, name), 1, CENTS_MAX)
        _between("payout_fee_bps", self.payout_fee_bps, 0, FEE_BPS_MAX)


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """A whole market. `macs` are declared; `macs_from_nodes` adds one per labelled node.

    `ledger_pinned` keeps the accountant and the router on the node labelled
    `coster-role=ledger`, whose disk holds the books. `database` is where they are kept:
    "" is SQLite in `data_dir`, else a `postgresql+asyncpg://` URL. Promo credit is granted
    to `promo_per_fingerprint` sign-ups from one place, and `promo_day_nano` a day in all;
    what Macs earn from it is held back for `promo_maturity_days`. `stripe_port` is where
    the embedded test Stripe listens, 0 when there is none. `policy` is the routing policy's
    name, one of `market.policy.registry.POLICIES`. Public figures of groups of fewer than
    `public_group_min` accounts are not told.
    """

    data_dir: str
    models: tuple[ModelSource, ...]
    code_version: str
    macs: tuple[MacSettings, ...] = ()
    macs_from_nodes: bool = False
    engine: EngineSettings = field(default_factory=EngineSettings)
    transport: str = "framed"
    gateways: int = 2
    host: str = "127.0.0.1"
    port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    platform_fee_bps: int = 0
    promo_nano: int = 10_000_000_000
    promo_per_fingerprint: int = 1
    promo_day_nano: int = 1_000_000_000_000
    promo_maturity_days: int = 30
    database: str = field(default="", repr=False)  # may hold a password
    stripe_port: int = 0
    payments: PaymentSettings = field(default_factory=PaymentSettings)
    policy: str = "coster"
    public_group_min: int = 1
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    demo_accounts: bool = False
    ledger_pinned: bool = False

    def __post_init__(self) -> None:
        _one_of("engine", self.engine.kind, ENGINES)
        _one_of("transport", self.transport, TRANSPORTS)
        _between("gateways", self.gateways, 1, GATEWAYS_MAX)
        _between("macs", len(self.macs), 0, MACS_MAX)
        _between("platform_fee_bps", self.platform_fee_bps, 0, FEE_BPS_MAX)
        _between("port", self.port, 1, 65_535)
        _between("admin_port", self.admin_port, 1, 65_535)
        _between("slots", self.engine.slots, 1, 1024)
        if not 0 <= self.engine.pace_ms <= PACE_MS_MAX:
            raise InvalidRequest(
                f"pace_ms is {self.engine.pace_ms}; it must be from 0 to {PACE_MS_MAX:.0f}.",
                "pace_ms",
            )
        if not self.models:
            raise InvalidRequest("A market serves at least one model; give --model.", "models")
        _between("promo_nano", self.promo_nano, 0, NANO_MAX)
        _between("promo_day_nano", self.promo_day_nano, 0, NANO_MAX)
        _between("promo_per_fingerprint", self.promo_per_fingerprint, 0, 1_000_000)
        _between("promo_maturity_days", self.promo_maturity_days, 0, 366)
        _between("public_group_min", self.public_group_min, 1, GROUP_MIN_MAX)
        _between("stripe_port", self.stripe_port, 0, 65_535)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidRequest(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.", name)


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {value}; it must be from {low} to {high}.", name)
