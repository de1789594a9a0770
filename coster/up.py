"""`coster up`: one command, one machine, a whole market.

Order: a line on the screen, the lock, leftovers of a killed run, ports and environment,
Ray, the actors, Serve, the demo accounts, ready. Then it waits; the first signal drains,
the second one forces. What it started is recorded in run.json while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import psutil

from actors.calls import ActorCall
from coster.compose import (
    DEMO_KEY_FILE,
    DEMO_MANAGEMENT_FILE,
    DEMO_PROVIDER_FILE,
    RAY_TOKEN_FILE,
    WIRE_FILE,
    UpOptions,
    admin_key,
    code_version,
    payment_secrets,
    settings_for_up,
)
from coster.databases import shown_books
from coster.output import (
    NOT_RUNNING,
    DivertedOutput,
    Progress,
    fail,
    outlive_readers,
    print_json,
    styled,
)
from coster.paths import MarketPaths, write_private
from coster.ports import MarketPorts, choose_ports
from coster.runfile import (
    MarketLock,
    RunningMarket,
    end_processes,
    leftovers,
    own_processes,
    read_run,
    write_run,
)
from coster.signals import Signals, Stopping
from coster.up_inputs import check_data, check_models, declared_macs, models_in_words
from coster.up_waiting import until_open, until_ready
from market import keys
from market.errors import MarketError, Unavailable
from market.settings import DEMO_CONSUMER, DEMO_PROVIDER, MarketSettings

DRAIN_S_MAX = 30.0
RECORD_S = 2.0
GOODBYE_S = 1.0
"""Time for the last error events to reach the clients."""


def up(paths: MarketPaths, options: UpOptions, port: int | None, *, as_json: bool) -> None:
    """Run a market until a signal. Raises SystemExit."""
    outlive_readers()
    began_s = time.monotonic()
    progress = Progress(began_s)
    sys.stderr.write(
        f"{styled('coster', 'bold', sys.stderr)} {code_version()} · embedded market · "
        f"data in {paths.data}\n"
    )
    sys.stderr.flush()
    stop = Signals()
    output = DivertedOutput()
    try:
        paths.prepare()
        lock = MarketLock(paths)
        if not lock.acquire():
            _already_running(paths, as_json=as_json)
        _end_leftovers(paths, progress)
        ports = choose_ports(options.host, port, str(paths.data))
        output.divert()
        _run(paths, ports, options, progress, stop, output, as_json=as_json)
    except Stopping:
        progress.warn("stopped before the market was ready")
        _end_own(paths)
        raise SystemExit(130) from None
    except MarketError as error:
        _end_own(paths)
        output.restore()
        fail(error, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a library raised, the user gets a reason
        log = _log_error(paths)
        _end_own(paths)
        output.restore()
        fail(
            Unavailable(
                f"The market could not start: {_in_a_line(error)}. The details are in {log}; on a "
                "busy machine simply try again, else run coster doctor."
            ),
            as_json=as_json,
        )
    paths.run_file.unlink(missing_ok=True)
    shutil.rmtree(paths.run_dir, ignore_errors=True)
    raise SystemExit(0)


def _run(
    paths: MarketPaths,
    ports: MarketPorts,
    options: UpOptions,
    progress: Progress,
    stop: Signals,
    output: DivertedOutput,
    *,
    as_json: bool,
) -> None:
    from actors.machines import names_of

    macs = declared_macs(paths, options)
    payment_keys = payment_secrets()
    settings = settings_for_up(paths, ports, options, macs, test_payments=payment_keys is None)
    check_models(settings)
    check_data(paths, settings)
    _prepare_ray(paths, ports)
    run = RunningMarket(
        pid=os.getpid(),
        started_s=psutil.Process().create_time(),
        api_base=f"http://{shown_host(options.host)}:{ports.http}/v1",
        admin_base=f"http://{settings.admin_host}:{ports.admin}",
        code_version=code_version(),
    )
    write_run(paths, run)
    progress.doing("starting Ray (a first start takes 5–30 s)")
    _quiet_libraries()
    from actors import cluster

    # Our actors ask for no CPU. This is how many workers Ray starts at a time, and in advance.
    cluster.start_local_ray(paths.run_dir / "ray", num_cpus=os.cpu_count() or 1)
    stop.install()
    write_run(paths, replace(run, processes=own_processes()))
    stop.check()
    progress.done("Ray is up")
    accountant, router = cluster.ensure_market(settings, paths.secret(WIRE_FILE))
    progress.doing(f"loading {models_in_words(settings)} on {names_of(macs)}")
    from serve_app import deployment

    deployment.start_http(settings)
    stop.check()
    asyncio.run(until_open(paths, settings, accountant, stop))
    key = asyncio.run(_demo_accounts(paths, settings))
    progress.done("the ledger is open; demo accounts are funded")
    deployment.run_applications(settings, admin_key(paths))
    stop.check()
    progress.done(f"{settings.gateways} gateways answer on {run.api_base}")
    asyncio.run(until_ready(paths, router, stop))
    cluster.ensure_payments(settings, payment_keys)  # it comes up while the market serves
    run = replace(run, ready=True, processes=own_processes())
    write_run(paths, run)
    progress.done("ready")
    stop.install()
    output.restore()
    _announce(paths, settings, run, key, as_json=as_json)
    output.divert()
    _wait(paths, run, stop)
    try:
        asyncio.run(_drain(progress))
        deployment.stop_http()
        asyncio.run(cluster.stop_market())
        cluster.stop_local_ray()
    except Exception as error:  # said as what it is: it did start
        raise Unavailable(
            f"The market did not stop in order: {_in_a_line(error)}. Its processes were ended; "
            f"what was acknowledged is in the books. The details are in {_log_error(paths)}."
        ) from error
    end_processes(leftovers(read_run(paths) or run))
    progress.done("stopped; the books are in " + shown_books(paths, settings.database))


def _in_a_line(error: Exception) -> str:
    """What a library said, as far as it fits a line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}".rstrip(".: ")


def shown_host(host: str) -> str:
    """A host a client on this machine can use."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104


def _prepare_ray(paths: MarketPaths, ports: MarketPorts) -> None:
    from actors.ray_env import (
        front_token,
        haproxy_available,
        ray_environment,
        write_haproxy_wrapper,
    )

    token = paths.secret_file(RAY_TOKEN_FILE)
    paths.secret(RAY_TOKEN_FILE)
    haproxy = haproxy_available() and os.environ.get("COSTER_HAPROXY", "1") != "0"
    if haproxy:
        front = front_token(paths.secret(WIRE_FILE))
        write_haproxy_wrapper(paths.run_dir, ports.ray, front)
    os.environ |= ray_environment(paths.run_dir, token, ports.ray, loopback=True, haproxy=haproxy)


def _quiet_libraries() -> None:
    """Ray and Serve talk on standard error; what matters of it is in their session logs."""
    warnings.simplefilter("ignore")
    for name in ("ray", "ray.serve", "ray.data"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        logger.disabled = True


async def _demo_accounts(paths: MarketPaths, settings: MarketSettings) -> str:
    """Open the demo accounts once; their keys are kept in DATA/secrets, 0600."""
    from actors.cluster import ACCOUNTANT, NamedActor

    accountant = NamedActor(ACCOUNTANT)
    await accountant(
        "ensure_account", DEMO_CONSUMER, "Demo consumer", "operator", settings.promo_nano
    )
    await accountant("ensure_account", DEMO_PROVIDER, "Demo provider", "operator", 0)
    made = [
        await _demo_key(paths, accountant, *wanted)
        for wanted in (
            (DEMO_KEY_FILE, DEMO_CONSUMER, "demo", keys.INFERENCE_SCOPES),
            (DEMO_MANAGEMENT_FILE, DEMO_CONSUMER, "demo management", keys.MANAGEMENT_SCOPES),
            (DEMO_PROVIDER_FILE, DEMO_PROVIDER, "demo provider", keys.PROVIDER_SCOPES),
        )
    ]
    return made[0]


async def _demo_key(
    paths: MarketPaths, accountant: ActorCall, file: str, account: str, name: str, scopes: object
) -> str:
    """The secret kept in this file, of a key made on the first start."""
    secret = paths.text_secret(file)
    if secret is None:
        _, secret = await accountant("create_key", account, name, scopes, None)
        write_private(paths.secret_file(file), secret)
    return secret


def _announce(
    paths: MarketPaths, settings: MarketSettings, run: RunningMarket, key: str, *, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "ready": True,
                "api_base": run.api_base,
                "api_key": key,
                "admin_key": admin_key(paths),
                "admin_base": run.admin_base,
                "pid": run.pid,
                "data": str(paths.data),
            }
        )
        return
    model = settings.models[0].model
    out = sys.stdout
    name = "coster" if shutil.which("coster") else sys.argv[0]
    data = "" if paths.data == _default_data() else f" --data {paths.data}"
    out.write(
        f"\nThe market is open: {styled(run.api_base, 'cyan', out)}\n"
        "A demo consumer has $10.00 of promo credit. Try:\n\n"
        f"  curl -N {run.api_base}/chat/completions"
        f" -H 'Authorization: Bearer {key}'"
        " -H 'Content-Type: application/json'"
        f' -d \'{{"model":"{model}","stream":true,'
        '"messages":[{"role":"user","content":"What is the capital of France?"}]}\'\n\n'
        "In another terminal:\n"
        f'  {name} chat "Tell me a story."{data}\n'
        f"  {name} usage{data}\n  {name} ledger verify{data}\n  {name} status{data}\n\n"
        "Ctrl-C drains and stops.\n"
    )
    out.flush()


def _default_data() -> Path:
    from coster.paths import default_data_dir

    return default_data_dir()


def _wait(paths: MarketPaths, run: RunningMarket, stop: Signals) -> None:
    """Until a signal; meanwhile keep the list of our processes true."""
    while not stop.wait(RECORD_S):
        processes = own_processes()
        if processes != run.processes:
            run = replace(run, processes=processes)
            write_run(paths, run)


async def _drain(progress: Progress) -> None:
    """Take no new work and let running streams end; a second signal cuts them."""
    from actors import cluster

    router = cluster.NamedActor(cluster.ROUTER)
    give_up_s = time.monotonic() + DRAIN_S_MAX
    told = False
    while time.monotonic() < give_up_s:
        try:
            running = int(await router("close_door", timeout_s=2.0))
        except (ConnectionError, MarketError):
            return
        if running == 0:
            return
        if not told:
            progress.doing(
                f"draining {running} running requests for at most {DRAIN_S_MAX:.0f} s; "
                "Ctrl-C again forces"
            )
            told = True
        await asyncio.sleep(0.1)
    progress.warn("what still ran was ended with an error; nobody pays for it")
    await cluster.end_streams("the market is closing")
    await asyncio.sleep(GOODBYE_S)


def _already_running(paths: MarketPaths, *, as_json: bool) -> None:
    run = read_run(paths)
    where = f"pid {run.pid}, {run.api_base}" if run else "starting now"
    error = Unavailable(
        f"A market already runs on {paths.data} ({where}). Use it with `coster chat --data "
        f"{paths.data}`, look with `coster status --data {paths.data}`, end it with "
        f"`coster down --data {paths.data}`, or start another with --data OTHER.",
        "data",
        "already_running",
    )
    try:
        fail(error, as_json=as_json)
    except SystemExit:
        raise SystemExit(NOT_RUNNING) from None


def _end_leftovers(paths: MarketPaths, progress: Progress) -> None:
    run = read_run(paths)
    if run is None:
        return
    ended = end_processes(leftovers(run))
    paths.run_file.unlink(missing_ok=True)
    if ended:
        progress.warn(f"ended {ended} processes that a killed run had left behind")


def _end_own(paths: MarketPaths) -> None:
    """End what this process has started, orphans too, and take back its record."""
    run = read_run(paths)
    if run is None or run.pid != os.getpid():  # another market's, or none was begun
        end_processes(own_processes())
        return
    end_processes({*own_processes(), *leftovers(run)})
    paths.run_file.unlink(missing_ok=True)


def _log_error(paths: MarketPaths) -> Path:
    """Keep the error that is being handled; returns where."""
    log = paths.data / "logs" / "up.log"
    log.write_text(traceback.format_exc())
    return log
