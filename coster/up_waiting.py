"""What `coster up` waits for: the books, then a Mac. It ends as soon as waiting is of no use.

The limits are for a machine that is slow. An actor that could not begin is started by nobody
again, so its own reason is the answer, at once.
"""

from __future__ import annotations

import asyncio
import time

from actors.calls import ActorCall, ActorNotStarted, first_answer
from coster.paths import MarketPaths
from coster.signals import Signals
from market.errors import InvalidRequest, MarketError, Unavailable
from market.settings import MarketSettings

READY_S_MAX = 180.0
LOOK_S = 0.1


async def until_open(
    paths: MarketPaths, settings: MarketSettings, accountant: ActorCall, stop: Signals
) -> None:
    """Wait until the accountant has opened the books.

    Raises what it says of books that it cannot open, ActorAway when it stays silent, Stopping.
    """
    try:
        await first_answer(accountant, "describe", READY_S_MAX, stop.check)
    except ActorNotStarted as error:
        where = "database" if settings.database else "data"
        raise _not_started(paths, where, error) from error


async def until_ready(paths: MarketPaths, router: ActorCall, stop: Signals) -> None:
    """Wait until a provider can take a request. Raises Unavailable, Stopping."""
    give_up_s = time.monotonic() + READY_S_MAX
    while time.monotonic() < give_up_s:
        stop.check()
        try:
            if any(model.ready for model in await router("availability")):
                return
            macs = (await router("status"))["macs"]
        except ActorNotStarted as error:
            raise _not_started(paths, "data", error) from error
        except ConnectionError:
            macs = []
        if macs and all(mac["state"] == "failing" for mac in macs):
            raise Unavailable(f"No Mac can start: {macs[0]['reason']}")
        await asyncio.sleep(LOOK_S)
    raise Unavailable(
        f"No Mac became ready within {READY_S_MAX:.0f} s; see the logs folder of the data "
        "directory, then run coster up again."
    )


def _not_started(paths: MarketPaths, param: str, error: ActorNotStarted) -> MarketError:
    """The error of `up` for an actor that could not begin."""
    if error.reason:
        return InvalidRequest(error.reason, param, "data_unusable")
    log = paths.data / "logs" / f"{error.name}.log"
    return Unavailable(
        f"The {error.name} could not start; {log} says why. On a busy machine simply try again, "
        "else run coster doctor."
    )
