"""`coster labels`: what this Mac is and who it is, for `ray start --labels-file`.

The machine id is made once and kept with the hardware's own id beside it: a disk cloned to
another Mac is noticed there and gets an id of its own.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import uuid
from pathlib import Path

import typer

from actors import nodes
from coster.options import reported
from coster.output import styled
from coster.paths import write_private
from market.errors import InvalidRequest
from market.hardware import CHIPS
from market.types import Hardware

OTHER_CHIP = "other"
"""What a machine that is not a Mac is called; its speed is measured, never believed."""
COMMAND_S_MAX = 5.0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(labels)


def labels() -> None:
    """Print this machine's Ray labels as YAML; makes its id on the first run."""
    with reported(as_json=False):
        found = hardware()
        machine = machine_id(identity_file())
    values = {
        nodes.MACHINE: machine,
        nodes.CHIP: found.chip.replace(" ", "-"),
        nodes.MEMORY_GB: str(found.memory_gb),
        nodes.GPU_CORES: str(found.gpu_cores),
        nodes.CPU_CORES: str(found.cpu_cores),
        nodes.BANDWIDTH_GBS: f"{found.bandwidth_gbs:g}",
    }
    for key, value in values.items():
        sys.stdout.write(f'{key}: "{value}"\n')


def identity_file() -> Path:
    """~/.config/coster/machine.json, or below XDG_CONFIG_HOME."""
    base = os.environ.get("XDG_CONFIG_HOME", "~/.config")
    return Path(base).expanduser() / "coster" / "machine.json"


def machine_id(path: Path) -> str:
    """The id in this file, made on first use and made anew on other hardware."""
    here = hardware_uuid()
    if path.exists():
        try:
            known = json.loads(path.read_text())
            machine, hardware_of = str(known["machine"]), str(known["hardware"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{path} is not a machine's identity ({error}); restore it, or remove it to "
                "register this Mac as a new one."
            ) from error
        if hardware_of == here:
            return machine
        sys.stderr.write(
            styled("note: ", "yellow", sys.stderr)
            + "this identity was copied from another machine; this one gets its own\n"
        )
    machine = f"mac_{secrets.token_hex(12)}"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps({"machine": machine, "hardware": here}))
    return machine


def hardware_uuid() -> str:
    """What the hardware calls itself: IOPlatformUUID on a Mac, machine-id on Linux."""
    if platform.system() == "Darwin":
        for line in _output("ioreg", "-rd1", "-c", "IOPlatformExpertDevice").splitlines():
            if "IOPlatformUUID" in line:
                return line.split('"')[-2]
    for name in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if Path(name).exists():
            return Path(name).read_text().strip()
    return f"{uuid.getnode():012x}"


def hardware() -> Hardware:
    """The machine we run on as the chip table knows it, with its own memory size."""
    brand = _output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    name = brand.removeprefix("Apple ").strip()
    chip = CHIPS.get(name)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Hardware(
        chip=chip.name if chip else OTHER_CHIP,
        memory_gb=max(1, round(pages / 2**30)),
        gpu_cores=chip.gpu_cores if chip else 0,
        cpu_cores=os.cpu_count() or 1,
        bandwidth_gbs=chip.bandwidth_gbs if chip else 0.0,
    )


def _output(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            command, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
