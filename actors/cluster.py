"""The doorway to Ray: names, options, look-ups, and Ray's errors turned into ours.

The only module of this room that imports Ray. The classes here are the market's plain
actors with their collaborators plugged in; `ray.remote` is applied where one is created.
Everything is detached and named in one namespace, so that any process finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    RayActorError,
    RaySystemError,
    RayTaskError,
)

from actors.accountant import Accountant
from actors.accounting.setup import accountant_settings
from actors.calls import ActorAway
from actors.engines.factory import Workshop
from actors.engines.sizes import model_sizes
from actors.nodes import NAMESPACE, macs_of_nodes, provider_name
from actors.payments.actor import Payments
from actors.payments.setup import PaymentSecrets, ProcessorSetup, places_of
from actors.process import begin_process, begun, end_process, recorded_start
from actors.provider import Provider, ProviderConfig
from actors.router import Router
from market.errors import Internal, MarketError
from market.routing.messages import ProviderBeat, ProviderOrders
from market.settings import MacSettings, MarketSettings
from market.types import Event, GatewayId, Job, MachineId, RequestId
from storage.pepper import load_pepper

ACCOUNTANT = "accountant"
ROUTER = "router"
PAYMENTS = "payments"
CALL_S_MAX = 10.0
"""No call of ours takes longer unless it says so; beyond this the actor counts as away."""
START_S_MAX = 120.0
FIRST_TRY_S = 3.0
DESCRIBE_S_MAX = 1.0
CONCURRENCY = 4000
"""Calls an actor may have open at once: long polls and batches of every gateway."""

log = logging.getLogger("coster.cluster")


class NamedActor:
    """Call one named actor: an `actors.calls.ActorCall`.

    The handle is looked up when first needed and again after the actor died for good.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None

    async def __call__(self, method: str, *args: object, timeout_s: float = CALL_S_MAX) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
            reference = getattr(self._handle, method).remote(*args)
            async with asyncio.timeout(timeout_s):
                return await reference
        except MarketError as error:
            raise _original(error) from None
        except TimeoutError as error:
            raise ActorAway(f"{self._name} did not answer {method} in {timeout_s:.0f} s") from error
        except (RayActorError, ActorUnschedulableError, GetTimeoutError, RaySystemError) as error:
            self._handle = None
            raise ActorAway(f"{self._name} is away ({type(error).__name__})") from error
        except RayTaskError as error:
            kind = type(error.cause).__name__
            log.error("%s.%s failed: %s", self._name, method, kind)  # noqa: TRY400 - no frames
            raise Internal(f"{self._name} failed at {method}.") from error
        except ValueError as error:  # Ray's answer for a name that is not registered
            raise ActorAway(f"{self._name} is not registered") from error


def _original(error: MarketError) -> MarketError:
    """Ray raises a subclass it makes up on the spot; the actor's own error is its cause."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, MarketError) else error


# ── the actors, with their collaborators ──────────────────────────────────────────────


class AccountantActor(Accountant):
    """The accountant as Ray runs it."""

    async def __init__(self, settings: MarketSettings) -> None:  # type: ignore[misc]
        begin_process("accountant", settings)
        self._data_dir = settings.data_dir
        with recorded_start():
            super().__init__(accountant_settings(settings), on_fatal=end_process)
            await begun(self.start)

    async def describe(self) -> dict[str, object]:
        return {**await super().describe(), "node": node_id()}

    async def key_pepper(self) -> bytes:
        """What gateways hash API keys with; they ask once, when they start."""
        return load_pepper(Path(self._data_dir))


class RouterActor(Router):
    """The router as Ray runs it: it also keeps one provider per Mac."""

    async def __init__(self, settings: MarketSettings, wire_secret: bytes) -> None:  # type: ignore[misc]
        begin_process("router", settings)
        self._wire_secret = wire_secret
        self._reconciler = Reconciler(settings, wire_secret, self)
        with recorded_start():
            super().__init__(
                Path(settings.data_dir) / "router.db",
                ensure_providers=self._reconciler.ensure,
                policy=settings.policy,
                placement=settings.placement,
                count_sizes=lambda: tuple(model_sizes(settings).values()),
                expected_macs=0 if settings.macs_from_nodes else len(settings.macs),
            )
            await self.start()

    async def describe(self) -> dict[str, Any]:
        return {**await super().describe(), "node": node_id()}

    async def wire_secret(self) -> bytes:
        """What gateways prove to providers; they ask once, when they start."""
        return self._wire_secret


class PaymentsActor(Payments):
    """Top-ups and payouts as Ray runs them."""

    async def __init__(self, settings: MarketSettings, keys: PaymentSecrets | None) -> None:  # type: ignore[misc]
        begin_process("payments", settings)
        with recorded_start():
            self._setup = ProcessorSetup(settings, keys)  # kept: the test payments live in it
            call, processor = NamedActor(ACCOUNTANT), await self._setup.open()
            super().__init__(call, processor, places_of(settings), kind=self._setup.kind)
            await self.start()

    async def describe(self) -> dict[str, object]:
        return {**await super().describe(), "node": node_id()}


class ProviderActor(Provider):
    """One Mac as Ray runs it."""

    async def __init__(self, settings: MarketSettings, config: ProviderConfig) -> None:  # type: ignore[misc]
        begin_process(f"provider-{config.mac.name}", settings)
        router = NamedActor(ROUTER)

        async def beat(beat: ProviderBeat) -> ProviderOrders:
            orders: ProviderOrders = await router("heartbeat", beat, timeout_s=3.0)
            return orders

        workshop = Workshop(settings, config.mac)
        super().__init__(
            replace(config, node=node_id()), workshop.offer(), workshop.make, beat, end_process
        )
        await self.start()

    async def stream_events(self, gateway: GatewayId) -> AsyncIterator[list[Event]]:
        """The fallback transport: a streaming call, an item per batch."""
        async for batch in self.streams.events(gateway):
            yield batch

    async def stream_submit(self, gateway: GatewayId, job: Job) -> None:
        self.streams.submit(gateway, job)

    async def stream_cancel(self, gateway: GatewayId, request_id: RequestId) -> None:
        self.streams.cancel(gateway, request_id)

    async def stream_renew(self, gateway: GatewayId) -> bool:
        return self.streams.renew(gateway)


class Reconciler:
    """Keeps exactly one provider actor per Mac, at the current code version."""

    def __init__(self, settings: MarketSettings, wire_secret: bytes, router: Router) -> None:
        self._settings = settings
        self._secret = wire_secret
        self._router = router
        self._watched: dict[MachineId, asyncio.Task[None]] = {}

    async def ensure(self) -> None:
        """One pass: create what is missing, replace what runs other code."""
        macs = {mac.machine: mac for mac in self._settings.macs}
        if self._settings.macs_from_nodes:
            nodes = await asyncio.to_thread(ray.nodes)
            macs |= {mac.machine: mac for mac in macs_of_nodes(nodes)}
        declared = tuple(macs.values())
        self._router.declare(declared, complete=not self._settings.macs_from_nodes)
        for machine, mac in macs.items():
            task = self._watched.get(machine)
            if task is None or task.done():
                self._watched[machine] = asyncio.create_task(self._keep(mac))

    async def _keep(self, mac: MacSettings) -> None:
        handle = await asyncio.to_thread(self._get_or_create, mac)
        version = await self._version_of(handle)
        if version is not None and version != self._settings.code_version:
            log.warning("%s runs %s; it is replaced", mac.name, version)
            ray.kill(handle)
            return
        try:
            await handle.wait_forever.remote()
        except RayActorError as error:
            await self._router.machine_lost(
                mac.machine, f"its process ended ({type(error).__name__})"
            )

    def _get_or_create(self, mac: MacSettings) -> Any:
        config = ProviderConfig(mac, self._secret, self._settings.code_version)
        options: dict[str, Any] = {"label_selector": dict(mac.labels)} if mac.labels else {}
        return (
            ray.remote(ProviderActor)
            .options(**_options(provider_name(mac.machine)), **options)
            .remote(self._settings, config)
        )

    async def _version_of(self, handle: Any) -> str | None:
        try:
            async with asyncio.timeout(START_S_MAX):
                return str((await handle.describe.remote())["code_version"])
        except (RayActorError, TimeoutError):
            return None


def _options(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 0,  # our callers repeat what may be repeated
        "num_cpus": 0,
        "max_concurrency": CONCURRENCY,
    }


# ── starting and asking ───────────────────────────────────────────────────────────────


def start_local_ray(temp_dir: Path, num_cpus: int) -> None:
    """A Ray of our own on this machine, whatever else runs here."""
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=80 * 2**20,
        namespace=NAMESPACE,
        _temp_dir=str(temp_dir),
    )


def stop_local_ray() -> None:
    ray.shutdown()


def ensure_market(settings: MarketSettings, wire_secret: bytes) -> None:
    """Create the accountant and the router unless they run; the router keeps the rest."""
    pin = {"label_selector": {"coster-role": "ledger"}} if settings.ledger_pinned else {}
    ray.remote(AccountantActor).options(**_options(ACCOUNTANT), **pin).remote(settings)
    # Whoever does not keep the books needs no password to them, Macs least of all.
    plain = replace(settings, database="")
    ray.remote(RouterActor).options(**_options(ROUTER), **pin).remote(plain, wire_secret)


def ensure_payments(settings: MarketSettings, keys: PaymentSecrets | None) -> None:
    """Create the payments actor unless it runs; nothing waits for it."""
    pin = {"label_selector": {"coster-role": "ledger"}} if settings.ledger_pinned else {}
    plain = replace(settings, database="")
    ray.remote(PaymentsActor).options(**_options(PAYMENTS), **pin).remote(plain, keys)


async def wait_for(
    name: str, method: str, deadline_s: float, check: Callable[[], None] = lambda: None
) -> Any:
    """The actor's first answer, within `deadline_s`; ActorAway when it does not come.

    `check` is called between tries and may raise to give up sooner.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + deadline_s
    call = NamedActor(name)
    while True:
        check()
        try:
            return await call(method, timeout_s=FIRST_TRY_S)
        except ActorAway:
            if loop.time() > give_up_s:
                raise
            await asyncio.sleep(0.1)


async def describe_actors() -> list[dict[str, object]]:
    """Pid, role, node and state of every actor of the market, from themselves.

    One that does not answer in `DESCRIBE_S_MAX` is listed as `unavailable`.
    """
    names = [
        str(entry["name"])
        for entry in await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        if entry["namespace"] == NAMESPACE
    ]
    return list(await asyncio.gather(*(_describe(name) for name in sorted(names))))


async def _describe(name: str) -> dict[str, object]:
    try:
        facts: Mapping[str, object] = await NamedActor(name)("describe", timeout_s=DESCRIBE_S_MAX)
    except (ActorAway, MarketError) as error:
        return {
            "actor": name,
            "role": name.split(":", maxsplit=1)[0],
            "state": "unavailable",
            "reason": str(error),
        }
    return {"actor": name, **facts}


async def end_streams(reason: str) -> None:
    """Make every provider give up what it runs: each client hears a terminal error event."""
    entries = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    providers = [str(e["name"]) for e in entries if str(e["name"]).startswith("provider:")]
    for name in providers:
        try:
            await NamedActor(name)("stop", reason, timeout_s=CALL_S_MAX)
        except (ActorAway, MarketError) as error:
            log.warning("%s did not stop by itself: %s", name, error)


async def stop_market() -> None:
    """End every actor of the market for good, the accountant last and after its last commit."""
    entries = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    names = [str(entry["name"]) for entry in entries if entry["namespace"] == NAMESPACE]
    kill_actor(ROUTER)  # first, or it would start the providers again
    for name in names:
        if name not in (ACCOUNTANT, ROUTER):
            kill_actor(name)
    try:
        await NamedActor(ACCOUNTANT)("stop", timeout_s=CALL_S_MAX)
    except ActorAway as error:
        log.warning("the accountant was not there to close its books: %s", error)
    kill_actor(ACCOUNTANT)


def kill_actor(name: str) -> None:
    """End a named actor for good; nothing when there is none."""
    try:
        handle = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    ray.kill(handle, no_restart=True)


def stream_of(machine: MachineId, gateway: GatewayId) -> AsyncIterator[list[Event]]:
    """The fallback transport's stream from one provider; Ray's errors become ActorAway."""
    return _stream(provider_name(machine), gateway)


async def _stream(name: str, gateway: GatewayId) -> AsyncIterator[list[Event]]:
    generator: Any = None
    try:
        handle = ray.get_actor(name, namespace=NAMESPACE)
        generator = handle.stream_events.options(num_returns="streaming").remote(gateway)
        async for reference in generator:
            yield await reference
    except (RayActorError, RayTaskError, ValueError) as error:
        raise ActorAway(f"{name}'s stream ended ({type(error).__name__})") from error
    finally:
        if generator is not None:
            ray.cancel(generator)  # an abandoned generator runs on by itself


def node_id() -> str:
    """The Ray node this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
