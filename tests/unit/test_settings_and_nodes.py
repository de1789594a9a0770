"""What an operator writes down becomes a market, or an error that names the key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.machines import demo_macs
from actors.nodes import macs_of_nodes, provider_id_of
from actors.ray_env import RayPorts, ray_environment
from coster.compose import load_settings, model_source
from coster.node import machine_id
from coster.paths import MarketPaths
from coster.ports import choose_ports
from coster.runfile import MarketLock, RunningMarket, end_processes, is_alive, leftovers
from market.errors import InvalidRequest
from market.types import MachineId

PORTS = RayPorts(1, 2, 3, 4, 5, 6, 7)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "market.toml"
    path.write_text(text)
    return path


def test_a_market_toml_becomes_settings(tmp_path: Path) -> None:
    """Every key lands in its field, and a cluster's market follows its nodes."""
    path = toml(
        tmp_path,
        f'data_dir = "{tmp_path}"\nplatform_fee_bps = 500\n[engine]\nkind = "echo"\npace_ms = 5\n',
    )

    settings = load_settings(path)

    assert settings.platform_fee_bps == 500
    assert (settings.engine.kind, settings.engine.pace_ms) == ("echo", 5)
    assert settings.macs_from_nodes
    assert settings.ledger_pinned


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("platform_fee_bps = 1", "data_dir"),
        ('data_dir = "/d"\nfee = 1', "fee"),
        ('data_dir = "/d"\nplatform_fee_bps = "5"', "platform_fee_bps"),
        ('data_dir = "/d"\nplatform_fee_bps = 10001', "platform_fee_bps"),
        ('data_dir = "/d"\n[engine]\nkind = "magic"', "engine"),
        ('data_dir = "/d"\n[engine]\nspeed = 1', "engine.speed"),
        ('data_dir = "/d"\nmodels = []', "models"),
        ('data_dir = "/d"\nport = 70000', "port"),
        ('data_dir = "/d"\ndatabase = "mysql://h/d"', "database"),
        ("data_dir = ", "config"),
    ],
)
def test_a_wrong_market_toml_is_named(tmp_path: Path, text: str, named: str) -> None:
    """The file, the key and what it should be are in the error."""
    with pytest.raises(InvalidRequest) as refused:
        load_settings(toml(tmp_path, text))

    assert refused.value.param == named
    assert "market.toml" in refused.value.message


def test_a_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    """`--model FOLDER` never takes the id of a catalogue model."""
    assert model_source(str(tmp_path), "mlx").model == f"local/{tmp_path.name}"
    assert model_source("coster/demo", "mlx").source == ""
    assert model_source("owner/name", "mlx").source == "owner/name"


def node(machine: str, *, alive: bool = True, **labels: str) -> dict[str, object]:
    return {
        "Alive": alive,
        "NodeManagerAddress": "10.0.0.2",
        "Labels": {"coster-machine": machine, **labels},
    }


def test_each_live_labelled_node_is_one_mac() -> None:
    """Dead nodes, unlabelled nodes and a second node with a copied identity are none."""
    macs = macs_of_nodes(
        [
            node("mac_a", **{"coster-chip": "M4-Max", "coster-memory-gb": "64"}),
            node("mac_a"),
            node("mac_b", alive=False),
            node("mac_c", **{"coster-memory-gb": "many"}),
            {"Alive": True, "Labels": {}},
        ]
    )

    (mac,) = macs
    assert (mac.machine, mac.hardware.chip, mac.hardware.memory_gb) == ("mac_a", "M4 Max", 64)
    assert mac.labels == (("coster-machine", "mac_a"),)


def test_a_node_says_what_its_mac_asks_and_how_far_it_is_trusted() -> None:
    """Labels no market could honour leave the node out, and the others in."""
    (mac, plain) = macs_of_nodes(
        [
            node("mac_a", **{"coster-ask-pct": "80", "coster-trust": "verified"}),
            node("mac_b"),
            node("mac_c", **{"coster-ask-pct": "0"}),
            node("mac_d", **{"coster-ask-pct": "cheap"}),
            node("mac_e", **{"coster-trust": "blind"}),
        ]
    )
    assert (mac.ask_pct, mac.trust) == (80, "verified")
    assert (plain.ask_pct, plain.trust) == (100, "basic")


def test_the_public_id_is_stable_and_tells_nothing() -> None:
    """The same machine has the same `prv_` everywhere, and it does not contain the machine's."""
    machine = MachineId("mac_0123456789")

    assert provider_id_of(machine) == provider_id_of(machine)
    assert machine.removeprefix("mac_") not in provider_id_of(machine)


def test_demo_macs_keep_their_ids_and_differ_in_chips(tmp_path: Path) -> None:
    """A restart, or more Macs later, changes no id."""
    two = demo_macs(tmp_path, 2)
    three = demo_macs(tmp_path, 3)

    assert [mac.machine for mac in three[:2]] == [mac.machine for mac in two]
    assert len({mac.hardware.chip for mac in three}) == 3
    with pytest.raises(InvalidRequest):
        demo_macs(tmp_path, 0)


def test_damaged_machine_ids_are_named(tmp_path: Path) -> None:
    """A broken machines.json is an error with the fix, not new machines."""
    (tmp_path / "machines.json").write_text('{"a": 1}')

    with pytest.raises(InvalidRequest, match=r"machines\.json"):
        demo_macs(tmp_path, 1)


def test_an_identity_copied_to_other_hardware_is_not_believed(tmp_path: Path) -> None:
    """The id is kept on this machine and made anew when the file comes from another."""
    path = tmp_path / "machine.json"
    mine = machine_id(path)
    again = machine_id(path)
    path.write_text(json.dumps({"machine": mine, "hardware": "another Mac"}))

    assert mine == again
    assert machine_id(path) != mine


def test_secrets_are_private_from_the_first_moment(tmp_path: Path) -> None:
    """Folders are 0700, secrets 0600, and a secret is made once."""
    paths = MarketPaths(tmp_path / "data")
    paths.prepare()

    first, second = paths.secret("wire"), paths.secret("wire")

    assert first == second
    assert len(first) == 32
    assert paths.secret_file("wire").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    """The path and the fix are in the error."""
    (tmp_path / "data").write_text("not a folder")

    with pytest.raises(InvalidRequest, match="--data"):
        MarketPaths(tmp_path / "data").prepare()


def test_two_markets_never_share_a_port() -> None:
    """Every port of a market is distinct, and another seed starts elsewhere."""
    one = choose_ports("127.0.0.1", None, "a")
    other = choose_ports("127.0.0.1", None, "b")

    singles = {one.http, one.admin, *(getattr(one.ray, f) for f in PORTS.__slots__)}
    assert len(singles) == 2 + len(PORTS.__slots__)
    assert one.admin != other.admin


def test_markets_started_together_choose_different_ports() -> None:
    """A chosen port is reserved at once, although it is bound much later."""
    one = choose_ports("127.0.0.1", None, "same")
    other = choose_ports("127.0.0.1", None, "same")

    assert one.http != other.http
    assert one.admin != other.admin


@pytest.mark.parametrize("host", ["10.99.99.99", "::1", "no such host"])
def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    """The error speaks of --host, not of ports in use."""
    with pytest.raises(InvalidRequest) as refused:
        choose_ports(host, None, "h")

    assert refused.value.param == "host"


def test_only_one_up_holds_the_data(tmp_path: Path) -> None:
    """The lock is refused to a second holder and free again after the first."""
    paths = MarketPaths(tmp_path / "data")
    paths.prepare()
    first, second = MarketLock(paths), MarketLock(paths)

    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_only_the_recorded_process_is_ended() -> None:
    """A pid that was reused by another process is left alone; the recorded one ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started_s = psutil.Process(child.pid).create_time()
    run = RunningMarket(
        os.getpid(), 0.0, "", "", "", processes=((child.pid, started_s - 100), (2**22, 1.0))
    )

    assert leftovers(run) == []
    assert end_processes([(child.pid, started_s - 100)]) == 0
    assert is_alive(child.pid, started_s)
    assert end_processes([(child.pid, started_s)]) == 1
    child.wait(timeout=10)


@pytest.mark.parametrize("haproxy", [True, False])
def test_ray_is_started_guarded(tmp_path: Path, haproxy: bool) -> None:
    """Token authentication and no telemetry, always; HAProxy only where it exists."""
    env = ray_environment(tmp_path, tmp_path / "token", PORTS, loopback=True, haproxy=haproxy)

    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_USAGE_STATS_ENABLED"] == "0"
    assert env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert ("RAY_SERVE_ENABLE_HA_PROXY" in env) is haproxy


def test_a_library_cannot_speak_before_our_one_line() -> None:
    """What is written to standard output while it is diverted ends on standard error."""
    script = (
        "import os\n"
        "from coster.output import DivertedOutput, print_json\n"
        "output = DivertedOutput()\n"
        "output.divert()\n"
        "os.write(1, b'a warning')\n"
        "output.restore()\n"
        "print_json({'ready': True})\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == {"ready": True}
    assert done.stderr == "a warning"
