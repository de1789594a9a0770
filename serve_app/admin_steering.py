"""Macs, models and requests on the operator's listener: how they stand, why, and orders."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from serve_app.admin_acts import json_answer
from serve_app.admin_bodies import REASON_CHARS_MAX
from serve_app.admin_ports import SteeringPort
from serve_app.asgi import Bodies
from serve_app.openapi import json_body
from serve_app.rest import read_shape
from serve_app.schemas import Shape

NAME_CHARS_MAX: Final = 300
OPERATOR: Final = "operator"
"""The reason that is shown where none was given."""


class DrainBody(Shape):
    """Why a Mac is drained; its owner and `status` show it."""

    reason: str = Field(default=OPERATOR, min_length=1, max_length=REASON_CHARS_MAX)


class UnpinBody(Shape):
    """A Mac, by name or id, and a model on it."""

    mac: str = Field(min_length=1, max_length=NAME_CHARS_MAX)
    model: str = Field(min_length=1, max_length=NAME_CHARS_MAX)


class PinBody(UnpinBody):
    """The same, and why the model is kept there."""

    reason: str = Field(default=OPERATOR, min_length=1, max_length=REASON_CHARS_MAX)


class PolicyBody(Shape):
    """The routing policy to use until the router starts again."""

    name: str = Field(min_length=1, max_length=NAME_CHARS_MAX)


STEERING_BODIES: Final[dict[str, type[BaseModel]]] = {
    shape.__name__: shape for shape in (DrainBody, PinBody, PolicyBody, UnpinBody)
}
Replay = Annotated[str, Query(max_length=NAME_CHARS_MAX)]
Named = Annotated[str, Query(max_length=NAME_CHARS_MAX)]


def add_steering(app: FastAPI, port: SteeringPort, bodies: Bodies) -> None:
    """All of it."""
    _add_reads(app, port)
    _add_orders(app, port, bodies)
    _add_pins(app, port, bodies)


def _add_reads(app: FastAPI, port: SteeringPort) -> None:
    @app.get("/admin/fleet", tags=["operations"])
    async def fleet() -> Response:
        """Every Mac, here or away, the ones that need attention first."""
        return json_answer(await port.fleet())

    @app.get("/admin/fleet/{mac:path}", tags=["operations"])
    async def mac_of(mac: str) -> Response:
        """One Mac by name or id, and which models only it has."""
        return json_answer(await port.mac(mac))

    @app.get("/admin/queue", tags=["operations"])
    async def queue() -> Response:
        """Who waits for which model, in order."""
        return json_answer(await port.queue())

    @app.get("/admin/placement", tags=["operations"])
    async def placement(model: Named = "") -> Response:
        """Which model is where and why, and what would be moved next; with `model` only of it."""
        return json_answer(await port.placement(model))

    @app.get("/admin/policy", tags=["operations"])
    async def policies() -> Response:
        """The routing policy in use, the one after a restart, and all there are."""
        return json_answer(await port.policies())

    @app.get("/admin/why/{request_or_mac:path}", tags=["operations"])
    async def why(request_or_mac: str, replay: Replay = "") -> Response:
        """Why a request went where it went, or how a Mac stands.

        With `replay` its decisions are made again by that policy; `present` is the one in use.
        """
        return json_answer(await port.why(request_or_mac, replay))


def _add_orders(app: FastAPI, port: SteeringPort, bodies: Bodies) -> None:
    @app.post(
        "/admin/drain/{mac:path}",
        tags=["operations"],
        openapi_extra=json_body("DrainBody", required=False),
    )
    async def drain(request: Request, mac: str) -> Response:
        """Let a Mac finish what it has and take nothing new, here or away, until undrained."""
        body = await read_shape(request, bodies, DrainBody)
        return json_answer(await port.drain(mac, body.reason))

    @app.post("/admin/undrain/{mac:path}", tags=["operations"])
    async def undrain(mac: str) -> Response:
        """Let a drained Mac work again."""
        return json_answer(await port.undrain(mac))

    @app.post(
        "/admin/policy", tags=["operations"], openapi_extra=json_body("PolicyBody", required=True)
    )
    async def use_policy(request: Request) -> Response:
        """Route by another policy until the router starts again."""
        body = await read_shape(request, bodies, PolicyBody)
        return json_answer(await port.use_policy(body.name))


def _add_pins(app: FastAPI, port: SteeringPort, bodies: Bodies) -> None:
    @app.post(
        "/admin/placement/pin",
        tags=["operations"],
        openapi_extra=json_body("PinBody", required=True),
    )
    async def pin(request: Request) -> Response:
        """Keep a model on a Mac until it is unpinned; `words` say what comes of it now."""
        body = await read_shape(request, bodies, PinBody)
        return json_answer(await port.pin(body.mac, body.model, body.reason))

    @app.post(
        "/admin/placement/unpin",
        tags=["operations"],
        openapi_extra=json_body("UnpinBody", required=True),
    )
    async def unpin(request: Request) -> Response:
        """Let the planner move it again."""
        body = await read_shape(request, bodies, UnpinBody)
        return json_answer(await port.unpin(body.mac, body.model))
