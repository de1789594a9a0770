"""The composition root: settings from flags, file and environment, then everything wired.

`settings_for_up` is the embedded market; `load_settings` reads the `market.toml` of a
cluster; `gateway` and `operations` are what `serve.yaml` names as import paths. Nothing
outside this module and the commands reads the environment or a configuration file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from actors.payments.setup import PaymentSecrets
from coster.databases import database_of
from coster.paths import MarketPaths
from coster.ports import MarketPorts
from market.catalogue import DEMO_MODEL, Catalogue
from market.errors import InvalidRequest
from market.settings import (
    DEMO_CONSUMER,
    DEMO_PROVIDER,
    EngineSettings,
    MacSettings,
    MarketSettings,
    ModelSource,
    PaymentSettings,
    PlacementSettings,
)
from market.types import ModelId

if TYPE_CHECKING:
    from serve_app.deployment import Application

ADMIN_KEY_FILE = "admin_key"
WIRE_FILE = "wire"
RAY_TOKEN_FILE = "ray_token"  # noqa: S105 - a file name
DEMO_KEY_FILE = "demo_key"
DEMO_MANAGEMENT_FILE = "demo_management_key"
DEMO_PROVIDER_FILE = "demo_provider_key"
DEFAULT_POLICY = "coster"
DEMO_ACCOUNTS = (DEMO_CONSUMER, DEMO_PROVIDER)


def code_version() -> str:
    """The installed version; providers of another version are replaced."""
    try:
        return version("coster")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `coster up` was asked for."""

    macs: int | None
    engine: str
    models: tuple[str, ...]
    slots: int
    pace_ms: float
    transport: str
    gateways: int
    host: str
    database: str = field(default="", repr=False)
    fleet: Path | None = None
    policy: str = DEFAULT_POLICY


def payment_secrets() -> PaymentSecrets | None:
    """What STRIPE_API_KEY and STRIPE_WEBHOOK_SECRET say; None without a key.

    They leave this process's environment, so that what it starts does not inherit them.
    """
    api_key = os.environ.pop("STRIPE_API_KEY", "").strip()
    webhook_secret = os.environ.pop("STRIPE_WEBHOOK_SECRET", "").strip()
    if api_key and not webhook_secret:
        raise InvalidRequest(
            "STRIPE_API_KEY is set and STRIPE_WEBHOOK_SECRET is not: Stripe's notices could not "
            "be verified. Set it to the signing secret of the webhook endpoint, or unset both to "
            "use test payments.",
            "STRIPE_WEBHOOK_SECRET",
        )
    return PaymentSecrets(api_key, webhook_secret) if api_key else None


def settings_for_up(
    paths: MarketPaths,
    ports: MarketPorts,
    options: UpOptions,
    macs: tuple[MacSettings, ...],
    *,
    test_payments: bool,
) -> MarketSettings:
    """An embedded market: this machine, demo Macs and demo accounts."""
    settings = MarketSettings(
        data_dir=str(paths.data),
        models=model_sources(options.models or (DEMO_MODEL,), options.engine),
        code_version=code_version(),
        macs=macs,
        engine=EngineSettings(kind=options.engine, slots=options.slots, pace_ms=options.pace_ms),
        transport=options.transport,
        gateways=options.gateways,
        host=options.host,
        database=database_of(paths, options.database),
        port=ports.http,
        admin_port=ports.admin,
        stripe_port=ports.stripe if test_payments else 0,
        policy=options.policy,
        demo_accounts=True,
    )
    _check_policy(settings)
    return settings


def model_sources(named: Sequence[str], engine: str) -> tuple[ModelSource, ...]:
    """What `--model` or a file's `models` name, each once."""
    sources = tuple(model_source(name, engine) for name in named)
    seen: set[ModelId] = set()
    for source in sources:
        if source.model in seen:
            raise InvalidRequest(
                f"{source.model} is named twice; folders are called by their last part, so rename "
                "one, or leave it out.",
                "models",
            )
        seen.add(source.model)
    return sources


def model_source(path_or_id: str, engine: str) -> ModelSource:
    """What one name means: the demo model, a folder (called by its own name), a catalogue model
    where engines need no weights, or a hub id.
    """
    if path_or_id == DEMO_MODEL:
        return ModelSource(DEMO_MODEL)
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return ModelSource(ModelId(f"local/{folder.resolve().name}"), str(folder.resolve()))
    known = ModelId(path_or_id)
    if engine != "mlx" and known in Catalogue().cards:
        return ModelSource(known)
    return ModelSource(known, path_or_id)


def _check_policy(settings: MarketSettings) -> None:
    """Refuse an unknown policy before the router is asked to route by it."""
    from market.policy.registry import policy_named

    policy_named(settings.policy)


# ── a cluster's market.toml ───────────────────────────────────────────────────────────


def load_settings(path: Path) -> MarketSettings:
    """Read a market.toml. Raises InvalidRequest naming the file, the key and the fix."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}).", "config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not TOML: {error}.", "config") from error
    try:
        return _settings_of(raw)
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}", error.param) from error


def _settings_of(raw: Mapping[str, Any]) -> MarketSettings:
    known = {f.name for f in fields(MarketSettings)} - {"code_version", "macs"}
    _reject_unknown(raw, known, "")
    if "data_dir" not in raw:
        raise InvalidRequest("data_dir is missing: the folder on the ledger's node.", "data_dir")
    engine = raw.get("engine", {})
    _reject_unknown(engine, {f.name for f in fields(EngineSettings)}, "engine.")
    payments = raw.get("payments", {})
    _reject_unknown(payments, {f.name for f in fields(PaymentSettings)}, "payments.")
    models = raw.get("models", ["coster/demo"])
    if not isinstance(models, list) or not all(isinstance(m, str) for m in models):
        raise InvalidRequest("models must be a list of folders or hub ids.", "models")
    placement = raw.get("placement", {})
    _reject_unknown(placement, {f.name for f in fields(PlacementSettings)}, "placement.")
    apart = ("engine", "models", "data_dir", "payments", "placement")
    rest = {k: v for k, v in raw.items() if k not in apart}
    base = MarketSettings(
        data_dir=str(Path(str(raw["data_dir"])).expanduser()),
        models=model_sources(models, engine.get("kind", "mlx")),
        code_version=code_version(),
        engine=_typed(EngineSettings(), engine, "engine."),
        payments=_typed(PaymentSettings(), payments, "payments."),
        placement=_typed(PlacementSettings(), placement, "placement."),
        macs_from_nodes=True,
        ledger_pinned=True,
    )
    settings: MarketSettings = _typed(base, rest, "")
    _check_database(settings)
    _check_policy(settings)
    return settings


def _check_database(settings: MarketSettings) -> None:
    """Refuse a URL that cannot be one before the accountant is asked to open it."""
    from storage.database import StorageError
    from storage.opening import check_url

    try:
        check_url(settings.database)
    except StorageError as error:
        raise InvalidRequest(str(error), "database") from error


def _reject_unknown(raw: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in raw:
        if key not in known:
            names = ", ".join(sorted(known))
            raise InvalidRequest(f"unknown key {prefix}{key}; the keys are {names}.", prefix + key)


def _typed(base: Any, raw: Mapping[str, Any], prefix: str) -> Any:
    """`base` with these fields, each of the type the default has."""
    for key, value in raw.items():
        want = type(getattr(base, key))
        if want is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if want is type(None):
            want = int
        if type(value) is not want:
            raise InvalidRequest(
                f"{prefix}{key} must be {want.__name__}, not {type(value).__name__}.", prefix + key
            )
    return replace(base, **raw)


# ── what serve.yaml names ─────────────────────────────────────────────────────────────


class MarketArgs(BaseModel):
    """The `args:` of an application in serve.yaml."""

    model_config = ConfigDict(extra="forbid")
    config: str


def gateway(args: Mapping[str, str]) -> Application:
    """The public API: starts the accountant and the router, then the gateway replicas."""
    from actors.cluster import ensure_market, ensure_payments
    from serve_app.deployment import gateway_application

    settings, paths = _cluster_market(args)
    ensure_market(settings, paths.secret(WIRE_FILE))
    ensure_payments(settings, payment_secrets())
    return gateway_application(settings)


def operations(args: Mapping[str, str]) -> Application:
    """The operator's listener."""
    from serve_app.deployment import operations_application

    settings, paths = _cluster_market(args)
    return operations_application(settings, admin_key(paths))


def _cluster_market(args: Mapping[str, str]) -> tuple[MarketSettings, MarketPaths]:
    config = MarketArgs.model_validate(args).config
    settings = load_settings(Path(config).expanduser())
    paths = MarketPaths(Path(settings.data_dir))
    paths.prepare()
    return settings, paths


def admin_key(paths: MarketPaths) -> str:
    """The key of the operator's listener, made on first use."""
    return "sk-coster-admin-" + paths.secret(ADMIN_KEY_FILE).hex()
