"""Limits for callers that have no key to be known by: so many calls a minute, evenly spread.

Counted by each gateway process for itself, in memory; two gateways allow twice as much.
"""

from __future__ import annotations

import math

from market.errors import RateLimited
from serve_app.asgi import Scope
from serve_app.client_address import caller_of, client_address
from serve_app.limits import Limits
from serve_app.ports import ClockPort

CALLERS = 10_000  # addresses remembered by a gate


class Gate:
    """At most `per_minute` calls per caller and `burst` at once (GCRA)."""

    def __init__(self, per_minute: int, burst: int, what: str, code: str) -> None:
        self._interval_s = 60.0 / per_minute
        self._burst_s = self._interval_s * burst
        self._what = what
        self._code = code
        self._due_s: dict[str, float] = {}

    def pass_through(self, caller: str, now_s: float) -> None:
        """Count one call; RateLimited says when the next is allowed."""
        due_s = max(self._due_s.get(caller, 0.0), now_s)
        wait_s = due_s - now_s - self._burst_s
        if wait_s > 0:
            raise RateLimited(
                f"Too many {self._what} from here; wait {math.ceil(wait_s)} s.",
                None,
                self._code,
                wait_s,
                True,
            )
        if caller not in self._due_s and len(self._due_s) >= CALLERS:
            self._due_s = {who: at_s for who, at_s in self._due_s.items() if at_s > now_s}
            if len(self._due_s) >= CALLERS:
                raise RateLimited(f"Too many {self._what} here now.", None, self._code, 60.0, True)
        self._due_s[caller] = due_s + self._interval_s


class Doorkeeper:
    """The gates of one gateway. None of them is passed by a caller with a good key.

    `front` is the token by which our own HAProxy vouches for an address.
    """

    def __init__(self, limits: Limits, clock: ClockPort, front: str) -> None:
        self._clock = clock
        self._front = front
        self._strangers = Gate(
            limits.strangers_per_minute,
            limits.strangers_burst,
            "requests without a valid key",
            "too_many_unauthenticated",
        )
        self._accounts = Gate(
            limits.accounts_per_minute, limits.accounts_burst, "new accounts", "too_many_accounts"
        )
        self._forgers = Gate(
            limits.forgeries_per_minute,
            limits.forgeries_burst,
            "webhooks with a bad signature",
            "too_many_bad_signatures",
        )

    def address(self, scope: Scope) -> str:
        """Where the request comes from, as far as that can be believed."""
        return client_address(scope, self._front)

    def stranger(self, scope: Scope) -> None:
        """Count a request without a key, or with one that is not valid; raises RateLimited."""
        self._pass(self._strangers, scope)

    def newcomer(self, scope: Scope) -> None:
        """Count a new account; raises RateLimited."""
        self._pass(self._accounts, scope)

    def forger(self, scope: Scope) -> None:
        """Count a webhook that the processor did not send; raises RateLimited."""
        self._pass(self._forgers, scope)

    def _pass(self, gate: Gate, scope: Scope) -> None:
        gate.pass_through(caller_of(self.address(scope)), self._clock.monotonic_s())
