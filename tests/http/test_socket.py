"""Over a real socket: bodies too large or too slow, readers that read slowly or never."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.limits import Limits
from tests.http.asgi_client import HI, chat
from tests.http.conftest import Server
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_market import Market

BOUNDS = Limits(tick_s=0.02, write_s=0.2, buffer_bytes=20_000)


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A market with short bounds and long answers."""
    made = Market(tmp_path, BOUNDS)
    made.fleet.LENGTH = 900
    return made


def head(length: int) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {Market.KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def connect(server: Server, *, receive_bytes: int | None = None) -> socket.socket:
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(10)
    made.connect(("127.0.0.1", server.port))
    return made


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def wait_for(what: str, market: Market) -> None:
    ends_s = time.monotonic() + 10
    while not market.nothing_is_left():
        assert time.monotonic() < ends_s, what
        time.sleep(0.01)


@pytest.fixture
def others(server: Server) -> Iterator[list[bytes]]:
    """Someone else's requests, made all the while; each must be answered in full."""
    answers: list[bytes] = []
    stop = threading.Event()

    def go() -> None:
        body = json.dumps(chat(max_tokens=3)).encode()
        closing = head(len(body)).replace(b"Host: x", b"Host: x\r\nConnection: close")
        while not stop.is_set():
            with connect(server) as made:
                made.sendall(closing + body)
                answer = read_all(made)
            answers.append(answer)

    thread = threading.Thread(target=go)
    thread.start()
    yield answers
    stop.set()
    thread.join(10)
    assert answers
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b'"content":"<us"' in answer


def test_a_declared_hundred_megabytes_is_refused_unread(
    server: Server, others: list[bytes]
) -> None:
    """413 before a byte of it is taken; the connection is closed."""
    with connect(server) as made:
        made.sendall(head(100_000_000) + b"x" * 1000)
        answer = read_all(made)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"type":"too_large"' in answer


def test_an_undeclared_large_body_is_cut_at_the_bound(
    server: Server, market: Market, others: list[bytes]
) -> None:
    """A chunked body ends when it passes 16 MiB, whatever it says."""
    request = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"100000\r\n" + b"[" * 0x100000 + b"\r\n"
    with connect(server) as made:
        made.sendall(request)
        try:
            for _ in range(100):
                made.sendall(chunk)
        except OSError:
            pass
        try:
            answer = read_all(made)
        except ConnectionResetError:
            answer = b""

    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
    assert market.app.counters()['coster_gateway_requests_total{route="chat",status="413"}'] == 1


def test_a_body_sent_a_byte_at_a_time_is_given_up(tmp_path: Path) -> None:
    """The deadline is for the whole body, so trickling does not extend it."""
    with Server(Market(tmp_path, Limits(body_read_s=0.5))) as server:
        trickle(server)


def trickle(server: Server) -> None:
    body = json.dumps(HI).encode()
    answer = b""
    at = 0
    with connect(server) as made:
        made.sendall(head(len(body)))
        made.settimeout(0.05)
        for at in range(len(body) - 1):
            try:
                made.sendall(body[at : at + 1])
                answer += made.recv(65536)
            except TimeoutError:
                continue
            if answer:
                break
        made.settimeout(5)
        answer += read_all(made)

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"request_timeout" in answer
    assert at < len(body) - 2, "given up only after the trickle had ended"


def test_a_client_that_never_reads_is_cut_off(
    server: Server, market: Market, others: list[bytes]
) -> None:
    """Its Mac is stopped, its hold ends, its buffer stays within the bound."""
    # More than loopback's own socket buffers can swallow.
    body = json.dumps(chat(stream=True, n=8, logprobs=True, top_logprobs=20)).encode()
    with connect(server, receive_bytes=2048) as made:
        made.sendall(head(len(body)) + body)
        ends_s = time.monotonic() + 10
        while not market.app.counters().get("coster_gateway_slow_readers_total"):
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        wait_for("the books of a client that never reads", market)
        assert any(mac.cancelled for mac in market.fleet.macs)

    (row,) = [row for row in market.accountant.rows.values() if row.finish_reason == "cancelled"]
    assert row.completion_tokens < 8 * 900


def test_a_client_that_vanishes_mid_request_costs_nothing(server: Server, market: Market) -> None:
    """Half a body and a reset: no hold, no job."""
    with connect(server) as made:
        made.sendall(head(100) + b'{"model"')
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    time.sleep(0.05)

    assert not market.fleet.requests
    assert market.ada.credit_nano == TEN_DOLLARS
    wait_for("nothing", market)
