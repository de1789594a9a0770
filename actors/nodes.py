"""From Ray nodes to Macs: the labels that make a node a Mac of the market.

A node is a Mac when it carries `coster-machine`. The other labels say what it is; `coster
labels` writes them on the Mac. Nothing here imports Ray: it reads what `ray.nodes()` gave.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from market.accounting.registry import unclaimed
from market.policy.preferences import TRUST
from market.settings import MacSettings, MarketSettings
from market.types import AccountId, Hardware, MachineId, ProviderId

NAMESPACE = "coster"
PROVIDER = "provider:"
MACHINE = "coster-machine"
CHIP = "coster-chip"
MEMORY_GB = "coster-memory-gb"
GPU_CORES = "coster-gpu-cores"
CPU_CORES = "coster-cpu-cores"
BANDWIDTH_GBS = "coster-bandwidth-gbs"
OWNER = "coster-owner"
ASK_PCT = "coster-ask-pct"
TRUST_TIER = "coster-trust"
PRIVATE = "coster-private"
ROLE, LEDGER = "coster-role", "ledger"

log = logging.getLogger("coster.nodes")


def beside_the_books(settings: MarketSettings) -> dict[str, Any]:
    """Ray's options for what must not be lost with a Mac: it runs where the books are kept."""
    return {"label_selector": {ROLE: LEDGER}} if settings.ledger_pinned else {}


def provider_name(machine: MachineId) -> str:
    """The actor's name: the machine's, never one registration's."""
    return f"{PROVIDER}{machine}"


def provider_id_of(machine: MachineId) -> ProviderId:
    """The public id of a machine: derived, stable, and not invertible."""
    return ProviderId("prv_" + hashlib.sha256(f"provider:{machine}".encode()).hexdigest()[:16])


def macs_of_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[MacSettings]:
    """One Mac per live labelled node; two nodes with one machine id count once."""
    macs: dict[MachineId, MacSettings] = {}
    for node in nodes:
        labels = {str(k): str(v) for k, v in (node.get("Labels") or {}).items()}
        if not node.get("Alive") or MACHINE not in labels:
            continue
        mac = _mac(labels, str(node.get("NodeManagerAddress", "127.0.0.1")))
        if mac is None:
            continue
        if mac.machine in macs:
            log.error("two nodes carry %s=%s; a copied disk? One is used", MACHINE, mac.machine)
            continue
        macs[mac.machine] = mac
    return list(macs.values())


def _mac(labels: Mapping[str, str], address: str) -> MacSettings | None:
    machine = MachineId(labels[MACHINE])
    trust = labels.get(TRUST_TIER, TRUST[0])
    try:
        ask_pct = int(labels.get(ASK_PCT, "100"))
        if not 1 <= ask_pct <= 100:
            raise ValueError(f"{ASK_PCT} is {ask_pct}, and must be from 1 to 100")
        if labels.get(PRIVATE, "false") not in ("true", "false"):
            raise ValueError(f"{PRIVATE} is {labels[PRIVATE]!r}, and must be true or false")
        if trust not in TRUST:
            raise ValueError(f"{TRUST_TIER} is {trust!r}, and must be one of {', '.join(TRUST)}")
        hardware = Hardware(
            # Label values cannot hold spaces: "M4-Max" is the chip "M4 Max".
            chip=labels.get(CHIP, "other").replace("-", " "),
            memory_gb=int(labels.get(MEMORY_GB, "8")),
            gpu_cores=int(labels.get(GPU_CORES, "0")),
            cpu_cores=int(labels.get(CPU_CORES, "1")),
            bandwidth_gbs=float(labels.get(BANDWIDTH_GBS, "0")),
        )
    except ValueError as error:
        log.error("node %s has an unreadable label: %s", machine, error)  # noqa: TRY400
        return None
    return MacSettings(
        machine=machine,
        provider=provider_id_of(machine),
        name=machine,
        owner=AccountId(labels[OWNER]) if OWNER in labels else unclaimed(machine),
        hardware=hardware,
        labels=((MACHINE, machine),),
        bind_host=address,
        ask_pct=ask_pct,
        trust=trust,
        private=labels.get(PRIVATE) == "true",
    )
