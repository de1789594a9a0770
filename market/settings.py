"""What an operator may decide about a market, as one frozen value.

Built once by the composition root from defaults, a file, the environment and flags, then
handed to every actor. Nothing below reads the environment. Every limit has a name and a
unit here or beside the rule it bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.errors import InvalidRequest
from market.types import AccountId, Hardware, MachineId, ModelId, ProviderId

ENGINES = ("mlx", "simulated", "echo")
TRANSPORTS = ("framed", "ray_stream")
MACS_MAX = 256
"""One Ray cluster is planned at 250 Mac nodes at most; larger markets federate."""
GATEWAYS_MAX = 16
FEE_BPS_MAX = 10_000
PACE_MS_MAX = 60_000.0

OPERATOR_ACCOUNT = AccountId("acct_operator")
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
    framed connection listens.
    """

    machine: MachineId
    provider: ProviderId
    name: str
    owner: AccountId
    hardware: Hardware
    labels: tuple[tuple[str, str], ...] = ()
    bind_host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """A whole market. `macs` are declared; `macs_from_nodes` adds one per labelled node.

    `ledger_pinned` keeps the accountant and the router on the node labelled
    `coster-role=ledger`, whose disk holds the books.
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
    fee_bps: int = 0
    promo_nano: int = 10_000_000_000
    demo_accounts: bool = False
    ledger_pinned: bool = False

    def __post_init__(self) -> None:
        _one_of("engine", self.engine.kind, ENGINES)
        _one_of("transport", self.transport, TRANSPORTS)
        _between("gateways", self.gateways, 1, GATEWAYS_MAX)
        _between("macs", len(self.macs), 0, MACS_MAX)
        _between("fee_bps", self.fee_bps, 0, FEE_BPS_MAX)
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
        if self.promo_nano < 0:
            raise InvalidRequest("promo_nano cannot be negative.", "promo_nano")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidRequest(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.", name)


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {value}; it must be from {low} to {high}.", name)
