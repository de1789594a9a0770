"""Beats, requests and fleets for the tests of routing."""

from __future__ import annotations

from dataclasses import replace

from market.errors import MarketError
from market.messages import Funding
from market.routing.messages import (
    Busy,
    Endpoint,
    GatewayBeat,
    Grant,
    Outcome,
    ProviderBeat,
    Refused,
    RouteRequest,
)
from market.routing.state import RouterState
from market.types import (
    AccountId,
    EngineStats,
    GatewayId,
    Hardware,
    MachineId,
    ModelFacts,
    ModelId,
    ProviderId,
    RequestId,
)

MODEL = ModelId("coster/demo")
GATEWAY = GatewayId("gw_1")
FACTS = ModelFacts(MODEL, "d", 8192, 512, 4_000_000_000, 100_000, "4bit")
STATS = EngineStats(4, 0, 0, 0, 16_000_000_000, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)


def provider_beat(
    name: str,
    *,
    slots: int = 4,
    state: str = "ready",
    incarnation: int = 1,
    models: tuple[ModelFacts, ...] = (FACTS,),
    bandwidth_gbs: float = 200.0,
    running: int = 0,
    decode_tps: float = 0.0,
) -> ProviderBeat:
    return ProviderBeat(
        machine=MachineId(f"mac_{name}"),
        provider=ProviderId(f"prv_{name}"),
        owner=AccountId(f"acct_{name}"),
        incarnation=incarnation,
        pid=1,
        node="n",
        endpoint=Endpoint("127.0.0.1", 1),
        hardware=Hardware("M4", 16, 10, 10, bandwidth_gbs),
        state=state,
        reason="",
        models=models,
        stats=replace(STATS, slots=slots, running=running, decode_tps=decode_tps),
        code_version="1",
        uptime_s=1.0,
    )


def request(
    name: str,
    *,
    queue: bool = False,
    consumer: str = "acct_c",
    gateway: GatewayId = GATEWAY,
    n: int = 1,
    attempt: int = 1,
    excluded: tuple[str, ...] = (),
    prompt_tokens: int = 100,
    max_tokens: int = 100,
    deadline_s: float = 30.0,
) -> RouteRequest:
    return RouteRequest(
        request_id=RequestId(name),
        gateway=gateway,
        consumer=AccountId(consumer),
        model=MODEL,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        n=n,
        attempt=attempt,
        excluded=tuple(MachineId(f"mac_{x}") for x in excluded),
        deadline_s=deadline_s,
        funding=Funding(1, 0) if queue else None,
    )


def outcome(grant: Grant, result: str = "ok", *, final: bool = True) -> Outcome:
    return Outcome(
        grant.request_id,
        grant.attempt,
        grant.machine,
        result,
        final,
        completion_tokens=10,
        total_ms=100.0,
    )


def gateway_beat(
    *running: Grant, queued: tuple[str, ...] = (), gateway: GatewayId = GATEWAY
) -> GatewayBeat:
    return GatewayBeat(
        gateway,
        1,
        "n",
        tuple((g.request_id, g.attempt, g.machine, 1) for g in running),
        tuple(RequestId(name) for name in queued),
    )


def settled_router(*beats: ProviderBeat, now_s: float = 10.0, seed: int = 0) -> RouterState:
    """A router past its rebuilding, with these Macs heard from just now."""
    state = RouterState(started_s=0.0, seed=seed)
    for beat in beats:
        state.beat_provider(beat, now_s)
    return state


def route_one(
    state: RouterState, asked: RouteRequest, now_s: float = 10.0
) -> Grant | Busy | MarketError:
    (reply,) = state.route([asked], now_s)
    return reply


def granted(state: RouterState, asked: RouteRequest, now_s: float = 10.0) -> Grant:
    reply = route_one(state, asked, now_s)
    assert isinstance(reply, Grant), reply
    return reply


def mail(state: RouterState, gateway: GatewayId = GATEWAY) -> list[Grant | Refused]:
    return state.take_mail(gateway)


def in_flight(state: RouterState) -> dict[str, int]:
    return {mac["machine"]: mac["in_flight"] for mac in state.status(10.0)["macs"]}
