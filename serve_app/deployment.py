"""The doorway to Ray Serve: the gateway's replicas and the operator's listener.

Serve runs the HTTP front: HAProxy in front of identical gateway replicas whose ASGI app is
built inside each replica. The admin app is a second, unrouted deployment with a listener of
its own. Nothing else in this room imports Ray.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from ray import serve
from ray.serve import Application as Application  # noqa: PLC0414 - the root annotates with it
from ray.serve._private import replica as serve_replica

from actors.admin import MarketAdmin
from actors.cluster import (
    ACCOUNTANT,
    PAYMENTS,
    ROUTER,
    MacStreams,
    NamedActor,
    describe_actors,
    node_id,
)
from actors.gateway import StreamCalls, connect_gateway
from actors.nodes import beside_the_books
from actors.process import begin_process
from market.keys import key_hash, well_formed
from market.public.pseudonyms import alias_key
from market.settings import MarketSettings
from market.types import GatewayId
from serve_app.admin import create_admin_app
from serve_app.app import create_app
from serve_app.clock import SystemClock
from serve_app.ports import GatewayPorts
from serve_app.sealed import Sealer
from serve_app.served import load_models

GATEWAY_APP = "market"
ADMIN_APP = "operations"
ONGOING_REQUESTS_MAX = 2000
"""Requests one replica holds; Serve's own default is 5."""
QUEUED_REQUESTS_MAX = 500
DRAIN_S = 1.0
PAYMENTS_S_MAX = 120.0
"""Reconciling and weekly payouts talk to the payment processor line by line."""
QUIET = {"enable_access_log": False, "encoding": "JSON", "log_level": "WARNING"}
"""Serve's own logs: no line per request, and nothing a caller wrote."""


def _bind_replica_rpc_to_loopback() -> None:
    """Serve opens a port for calls between deployments on every interface, unauthenticated.

    We have no such calls, so in this process it is bound to loopback.
    """
    original = serve_replica.add_port_to_grpc_server

    def loopback_only(server: Any, address: str) -> int:
        return int(original(server, address.replace("[::]", "127.0.0.1")))

    serve_replica.add_port_to_grpc_server = loopback_only


def _hash_key(pepper: bytes, secret: str) -> bytes | None:
    return key_hash(secret, pepper) if well_formed(secret) else None


@serve.deployment(
    max_ongoing_requests=ONGOING_REQUESTS_MAX,
    max_queued_requests=QUEUED_REQUESTS_MAX,
    graceful_shutdown_timeout_s=DRAIN_S,
    graceful_shutdown_wait_loop_s=0.1,
    logging_config=QUIET,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Gateway:
    """One replica of the HTTP door; keeps nothing but caches."""

    async def __init__(self, settings: MarketSettings) -> None:  # type: ignore[misc]
        _bind_replica_rpc_to_loopback()
        begin_process(f"gateway-{os.getpid()}", settings)
        gateway = GatewayId(f"gw_{secrets.token_hex(8)}")
        models, catalogue = await asyncio.to_thread(load_models, settings)
        macs = MacStreams(settings)
        clients = await connect_gateway(
            settings,
            gateway,
            node=node_id(),
            accountant=NamedActor(ACCOUNTANT),
            router=NamedActor(ROUTER),
            payments=NamedActor(PAYMENTS),
            streams=StreamCalls(macs.open, macs.call),
            counters=self._counters,
        )
        self._app = create_app(
            GatewayPorts(
                gateway=gateway,
                accountant=clients.accountant,
                payments=clients.payments,
                router=clients.router,
                providers=clients.providers,
                models=models,
                catalogue=catalogue,
                clock=SystemClock(),
                readiness=clients.readiness,
                hash_key=partial(_hash_key, clients.pepper),
                sealer=Sealer(clients.pepper),
                front=clients.front,
                alias_key=alias_key(clients.pepper),
                group_min=settings.public_group_min,
            )
        )
        clients.router.start()
        self._app.start()

    def _counters(self) -> dict[str, float]:
        return self._app.counters()

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0}, logging_config=QUIET)
class Operations:
    """The operator's listener: metrics and admin routes, on loopback, behind the admin key."""

    async def __init__(self, settings: MarketSettings, admin_key: str) -> None:  # type: ignore[misc]
        _bind_replica_rpc_to_loopback()
        begin_process("operations", settings, "uvicorn.error")
        admin = MarketAdmin(
            accountant=NamedActor(ACCOUNTANT),
            router=NamedActor(ROUTER),
            payments=partial(NamedActor(PAYMENTS), timeout_s=PAYMENTS_S_MAX),
            payment_settings=settings.payments,
            describe_actors=describe_actors,
            serve_states=serve_states,
            data_dir=Path(settings.data_dir),
            database=settings.database,
        )
        app = create_admin_app(admin, admin_key)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.admin_host,
                port=settings.admin_port,
                log_config=None,
                access_log=False,
                lifespan="off",
            )
        )
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        # Serve owns this process's signals; uvicorn must not take them.
        config = self._server.config
        if not config.loaded:
            config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup()
        await self._server.main_loop()

    async def check_health(self) -> None:
        """Serve restarts the replica when the listener has ended."""
        if self._task.done():
            raise RuntimeError("the admin listener has ended")


def gateway_application(settings: MarketSettings) -> Application:
    """The routed application: `settings.gateways` identical replicas.

    They ask the accountant for everything, so they are told no database and no password.
    """
    deployment: Any = Gateway  # what the decorators have made of the class
    plain = replace(settings, database="")
    return deployment.options(num_replicas=settings.gateways, **_place(settings)).bind(plain)


def operations_application(settings: MarketSettings, admin_key: str) -> Application:
    """The unrouted application with the operator's listener."""
    deployment: Any = Operations
    return deployment.options(**_place(settings)).bind(settings, admin_key)


def _place(settings: MarketSettings) -> dict[str, Any]:
    """Where replicas may run: a Mac that is lost must take no gateway with it."""
    return {"ray_actor_options": {"num_cpus": 0, **beside_the_books(settings)}}


def start_http(settings: MarketSettings) -> None:
    """Start Serve's front on the market's one HTTP port, on this node."""
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config=QUIET,
    )


def run_applications(settings: MarketSettings, admin_key: str) -> None:
    """Deploy both applications side by side and wait until every replica is healthy."""
    serve.run_many(
        [
            serve.RunTarget(gateway_application(settings), name=GATEWAY_APP, route_prefix="/"),
            serve.RunTarget(
                operations_application(settings, admin_key), name=ADMIN_APP, route_prefix=None
            ),
        ]
    )


def stop_http() -> None:
    """End every replica and the front. Streams should have been drained before."""
    serve.shutdown()


def serve_states() -> list[dict[str, object]]:
    """Desired and actual replicas of each deployment with Serve's own message."""
    states: list[dict[str, object]] = []
    for app_name, app in serve.status().applications.items():
        for name, deployment in app.deployments.items():
            states.append(
                {
                    "app": app_name,
                    "deployment": name,
                    "state": str(deployment.status.value).lower(),
                    "replicas": {
                        str(state).lower(): count
                        for state, count in deployment.replica_states.items()
                    },
                    "message": deployment.message,
                }
            )
    return states
