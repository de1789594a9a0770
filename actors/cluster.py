"""The doorway to Ray: names, options, look-ups, and Ray's errors turned into ours.

The only module of this room that imports Ray. The classes here are the market's plain
actors with their collaborators plugged in; `ray.remote` is applied where one is created.
Everything is detached and named in one namespace, so that any process finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import services, worker
from ray._private.utils import detect_fate_sharing_support
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    RayActorError,
    RaySystemError,
    RayTaskError,
)

from actors.accountant import Accountant
from actors.accounting.setup import accountant_settings
from actors.calls import ActorAway, ActorNotStarted, Coalescer
from actors.engines.factory import Workshop
from actors.engines.sizes import model_sizes
from actors.housing import Housing, actor_names, apart, housings
from actors.macs import Macs
from actors.nodes import NAMESPACE, beside_the_books, macs_of_nodes, provider_name
from actors.payments.actor import Payments
from actors.payments.setup import PaymentSecrets, ProcessorSetup, places_of
from actors.process import begin_process, begun, end_process, recorded_start, told_reason
from actors.provider import Provider, ProviderConfig
from actors.reconciler import START_S_MAX, Reconciler
from actors.roll_call import describe_all, stop_macs
from actors.router import Router
from market.errors import Internal, MarketError
from market.routing.messages import ProviderBeat, ProviderOrders
from market.settings import MarketSettings
from market.types import Event, GatewayId, MachineId
from storage.pepper import load_pepper

ACCOUNTANT = "accountant"
ROUTER = "router"
PAYMENTS = "payments"
CALL_S_MAX = 10.0
"""No call of ours takes longer unless it says so; beyond this the actor counts as away."""
BEAT_S_MAX = 3.0
"""A beat that did not arrive for so long is stale: the next one is due."""
CONCURRENCY = 4000
"""Calls an actor may have open at once: long polls and batches of every gateway."""

log = logging.getLogger("coster.cluster")


class NamedActor:
    """Call one named actor: an `actors.calls.ActorCall`.

    The handle is looked up when first needed and again after the actor died for good.
    """

    def __init__(self, name: str, handle: Any = None) -> None:
        self._name = name
        self._handle = handle

    async def __call__(
        self, method: str, *args: object, timeout_s: float | None = CALL_S_MAX
    ) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
            reference = getattr(self._handle, method).remote(*args)
            async with asyncio.timeout(timeout_s):
                return await reference
        except MarketError as error:
            raise _original(error) from None
        except TimeoutError as error:
            raise ActorAway(f"{self._name} did not answer {method} in {timeout_s} s") from error
        except (RayActorError, ActorUnschedulableError, GetTimeoutError, RaySystemError) as error:
            self._handle = None
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise ActorNotStarted(self._name, told_reason(str(error))) from error
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

        async def desired() -> Sequence[Housing]:
            found = await _housings(settings)
            macs = {mac.machine: mac for housing in found for mac in housing.macs}
            self.declare(tuple(macs.values()), complete=not settings.macs_from_nodes)
            return found

        reconciler = Reconciler(
            desired,
            partial(_open_process, settings, wire_secret),
            settings.code_version,
            self.machine_lost,
        )
        with recorded_start():
            super().__init__(
                Path(settings.data_dir) / "router.db",
                ensure_providers=reconciler.ensure,
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


class ProviderActor(Macs):
    """The Macs of one process as Ray runs them: one, or several light ones."""

    async def __init__(  # type: ignore[misc]
        self, settings: MarketSettings, housing: Housing, wire_secret: bytes
    ) -> None:
        begin_process(housing.role, settings)
        node = node_id()
        router = partial(NamedActor(ROUTER), timeout_s=BEAT_S_MAX)
        beats: Coalescer[ProviderBeat, ProviderOrders] = Coalescer(
            router, "heartbeats", deadline_s=BEAT_S_MAX
        )

        def opened(config: ProviderConfig, leave: Callable[[str], None]) -> Provider:
            workshop = Workshop(settings, config.mac)
            return Provider(config, workshop.offer(), workshop.make, beats.submit, leave)

        configs = [
            ProviderConfig(mac, wire_secret, settings.code_version, node, housing.phase_s)
            for mac in housing.macs
        ]
        super().__init__(configs, opened, end_process)
        await self.start()

    async def stream_events(
        self, machine: MachineId, gateway: GatewayId
    ) -> AsyncIterator[list[Event]]:
        """The fallback transport: a streaming call, an item per batch."""
        async for batch in self.events(machine, gateway):
            yield batch


class RayProcess:
    """A process of providers: an `actors.reconciler.Process`."""

    def __init__(self, name: str, handle: Any) -> None:
        self._handle = handle
        self._call = NamedActor(name, handle)

    async def code_version(self) -> str:
        return str((await self._call("describe", timeout_s=None))["code_version"])

    async def begin(self, machine: MachineId) -> None:
        await self._call("begin", machine, timeout_s=START_S_MAX)

    async def wait_forever(self, machine: MachineId) -> str:
        return str(await self._call("wait_forever", machine, timeout_s=None))

    def kill(self) -> None:
        ray.kill(self._handle)


async def _housings(settings: MarketSettings) -> Sequence[Housing]:
    """Where every Mac lives, those of labelled nodes included."""
    declared = housings(settings)
    if not settings.macs_from_nodes:
        return declared
    nodes = await asyncio.to_thread(ray.nodes)
    return [*declared, *apart(macs_of_nodes(nodes))]


async def _open_process(
    settings: MarketSettings, wire_secret: bytes, housing: Housing
) -> RayProcess:
    """Find it by its name, or start it."""
    labels = dict(housing.macs[0].labels)
    options: dict[str, Any] = {"label_selector": labels} if labels else {}
    actor = ray.remote(ProviderActor).options(**_options(housing.actor), **options)
    # Every process is told the market's settings, but of its own Macs only.
    plain = replace(settings, macs=housing.macs)
    handle = await asyncio.to_thread(actor.remote, plain, housing, wire_secret)
    return RayProcess(housing.actor, handle)


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
    """A Ray of our own on this machine, whatever else runs here.

    A signal to our whole process group is for us to answer: Ray would die of it before it could
    be stopped. Its processes get groups of their own, unless the group is how they end with us.
    """
    plain = services.ConsolePopen
    if detect_fate_sharing_support():  # not on macOS
        services.ConsolePopen = partial(plain, process_group=0)
    try:
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
    finally:
        services.ConsolePopen = plain
    # It prints, raw, what it has to say of each process that dies; its session logs keep that.
    worker.print_to_stdstream = _told_by_ray


def _told_by_ray(data: dict[str, Any], **_: Any) -> None:
    log.info("ray: %s", " ".join(data["lines"]))


def stop_local_ray() -> None:
    ray.shutdown()


def ensure_market(settings: MarketSettings, wire_secret: bytes) -> tuple[NamedActor, NamedActor]:
    """Create the accountant and the router unless they run; the router keeps the rest.

    Whoever waits for them calls what this returns: by its name alone, an actor that could not
    begin is not found, and cannot say why.
    """
    pin = beside_the_books(settings)
    accountant = ray.remote(AccountantActor).options(**_options(ACCOUNTANT), **pin)
    # Whoever does not keep the books needs no password to them, Macs least of all.
    plain = replace(settings, database="")
    router = ray.remote(RouterActor).options(**_options(ROUTER), **pin)
    return (
        NamedActor(ACCOUNTANT, accountant.remote(settings)),
        NamedActor(ROUTER, router.remote(plain, wire_secret)),
    )


def ensure_payments(settings: MarketSettings, keys: PaymentSecrets | None) -> None:
    """Create the payments actor unless it runs; nothing waits for it."""
    pin = beside_the_books(settings)
    plain = replace(settings, database="")
    ray.remote(PaymentsActor).options(**_options(PAYMENTS), **pin).remote(plain, keys)


async def describe_actors() -> list[dict[str, object]]:
    """Who every actor of the market is, Mac by Mac, from themselves."""
    return await describe_all(await _names(), NamedActor)


async def end_streams(reason: str) -> None:
    """Make every provider give up what it runs: each client hears a terminal error event."""
    await stop_macs(await _names(), NamedActor, reason)


async def _names() -> list[str]:
    entries = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    return [str(entry["name"]) for entry in entries if entry["namespace"] == NAMESPACE]


async def stop_market() -> None:
    """End every actor of the market for good, the accountant last and after its last commit."""
    names = await _names()
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


class MacStreams:
    """The fallback transport's calls to Macs, wherever they live; Ray's errors become ActorAway.

    Gives what `actors.gateway.StreamCalls` wants.
    """

    def __init__(self, settings: MarketSettings) -> None:
        self._shared = actor_names(settings)

    def _name(self, machine: MachineId) -> str:
        return self._shared.get(machine) or provider_name(machine)

    def call(self, machine: MachineId) -> NamedActor:
        """The actor to call about this Mac; every method takes the Mac first."""
        return NamedActor(self._name(machine))

    async def open(self, machine: MachineId, gateway: GatewayId) -> AsyncIterator[list[Event]]:
        """A Mac's events for one gateway, a list per wake-up."""
        name, generator = self._name(machine), None
        try:
            handle: Any = ray.get_actor(name, namespace=NAMESPACE)
            method = handle.stream_events.options(num_returns="streaming")
            generator = method.remote(machine, gateway)
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
