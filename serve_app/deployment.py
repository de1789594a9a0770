"""The doorway to Ray Serve: the gateway's replicas and the operator's listener.

Serve runs the HTTP front: HAProxy in front of identical gateway replicas whose ASGI app is
built inside each replica. The admin app is a second, unrouted deployment with a listener of
its own. Nothing else in this room imports Ray.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Any

import uvicorn
from actors.admin import MarketAdmin
from ray import serve
from ray.serve._private import replica as serve_replica

from actors.cluster import NamedActor, node_id
from actors.gateway import connect_gateway
from actors.process import begin_process
from market.settings import MarketSettings
from market.types import GatewayId
from serve_app.admin import create_admin_app
from serve_app.app import GatewayPorts, create_app

GATEWAY_APP = "market"
ADMIN_APP = "operations"
ONGOING_REQUESTS_MAX = 2000
"""Requests one replica holds; Serve's own default is 5."""
QUEUED_REQUESTS_MAX = 500
DRAIN_S = 1.0


def _bind_replica_rpc_to_loopback() -> None:
    """Serve opens a port for calls between deployments on every interface, unauthenticated.

    We have no such calls, so in this process it is bound to loopback.
    """
    original = serve_replica.add_port_to_grpc_server

    def loopback_only(server: Any, address: str) -> int:
        return int(original(server, address.replace("[::]", "127.0.0.1")))

    serve_replica.add_port_to_grpc_server = loopback_only


@serve.deployment(
    max_ongoing_requests=ONGOING_REQUESTS_MAX,
    max_queued_requests=QUEUED_REQUESTS_MAX,
    graceful_shutdown_timeout_s=DRAIN_S,
    graceful_shutdown_wait_loop_s=0.1,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Gateway:
    """One replica of the HTTP door; keeps nothing but caches."""

    async def __init__(self, settings: MarketSettings) -> None:
        _bind_replica_rpc_to_loopback()
        gateway = GatewayId(f"gw_{secrets.token_hex(8)}")
        begin_process(f"gateway-{os.getpid()}", settings)
        self._parts = await connect_gateway(settings, gateway, node=node_id())
        self._app = create_app(
            GatewayPorts(
                accountant=self._parts.accountant,
                router=self._parts.router,
                providers=self._parts.providers,
                models=self._parts.models,
                catalogue=self._parts.catalogue,
                readiness=self._parts.readiness,
                hash_key=self._parts.hash_key,
                clock=self._parts.clock,
                metrics=self._parts.metrics,
            )
        )

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
class Operations:
    """The operator's listener: metrics and admin routes, on loopback, behind the admin key."""

    async def __init__(self, settings: MarketSettings, admin_key: str) -> None:
        _bind_replica_rpc_to_loopback()
        begin_process("operations", settings)
        app = create_admin_app(MarketAdmin(settings, NamedActor), admin_key)
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


def gateway_application(settings: MarketSettings) -> serve.Application:
    """The routed application: `settings.gateways` identical replicas."""
    return Gateway.options(num_replicas=settings.gateways).bind(settings)


def operations_application(settings: MarketSettings, admin_key: str) -> serve.Application:
    """The unrouted application with the operator's listener."""
    return Operations.bind(settings, admin_key)


def start_http(settings: MarketSettings) -> None:
    """Start Serve's front on the market's one HTTP port, on this node."""
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config={"enable_access_log": False, "encoding": "JSON"},
    )


def run_application(application: serve.Application, name: str, route: str | None) -> None:
    """Deploy and wait until every replica is healthy."""
    serve.run(application, name=name, route_prefix=route, _blocking=True)


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
                        str(k.value).lower(): v for k, v in deployment.replica_states.items()
                    },
                    "message": deployment.message,
                }
            )
    return states
