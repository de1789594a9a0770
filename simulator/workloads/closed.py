"""Closed loops: the next question waits for the answer before it.

How a slow market is asked less often: true of people, and the pitfall of measuring with them.
While an answer is late nothing is sent, so the worst moments are met by the fewest requests
(coordinated omission). Use an open loop to judge policies, and this to see what users do.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from simulator.records import Ended
from simulator.streams import Streams
from simulator.workloads.laws import Law
from simulator.workloads.rows import Row
from simulator.workloads.talks import Talk, Talks


class ClosedLoop:
    """Rows whose time depends on what became of others. The same as a part of a `Source`."""

    def __init__(
        self,
        talks: Talks,
        streams: Streams,
        beginnings: Iterator[tuple[float, Talk]] | None = None,
    ) -> None:
        """Conversations that begin by themselves, or without them the users of the workload."""
        self._talks = talks
        self._beginnings = beginnings
        self._begins = next(beginnings, None) if beginnings is not None else None
        self._later: list[tuple[float, int, Row, Talk]] = []
        self._planned = 0
        self._asked: dict[str, tuple[Talk, float]] = {}  # by session: who waits, and then thinks
        self._users: dict[str, _User] = {}  # by session
        users = talks.spec.users
        if users is not None:
            for number in range(users.count):
                user = _User(talks, number, users.think_s, streams)
                self._sit_down(user, user.think_s())

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for an answer, to go on after it."""
        return bool(self._asked)

    def next_s(self) -> float | None:
        """When the next request is sent; None while everybody waits for an answer."""
        due = self._later[0][0] if self._later else None
        begins = self._begins[0] if self._begins is not None else None
        if due is None or (begins is not None and begins < due):
            return begins
        return due

    def take(self) -> Row:
        """The request of `next_s`."""
        begins = self._begins
        if begins is not None and begins[0] == self.next_s():
            assert self._beginnings is not None
            self._begins = next(self._beginnings, None)
            at_s, talk = begins
            row = self._talks.say(talk, at_s)
            assert row is not None, "a conversation that has just begun says something"
        else:
            _, _, row, talk = heapq.heappop(self._later)
        think_s = talk.thinks_s[talk.turn - 1]
        self._asked[talk.name] = (talk, think_s)
        return row

    def ended(self, ended: Ended) -> None:
        """An answer came, or none: go on, give up, or begin anew."""
        arrival = ended.arrival
        talk, think_s = self._asked.pop(arrival.session)
        user = self._users.pop(talk.name, None)
        if ended.e2e_s is None:
            return  # the run is over before its answer
        now_s = arrival.at_s + ended.e2e_s
        if ended.status == "ok" and self._plan(talk, now_s + think_s):
            if user is not None:
                self._users[talk.name] = user
        elif user is not None:
            self._sit_down(user, now_s + user.think_s())

    def _sit_down(self, user: _User, at_s: float) -> None:
        talk = user.next_talk(at_s)
        self._users[talk.name] = user
        self._plan(talk, at_s)

    def _plan(self, talk: Talk, at_s: float) -> bool:
        """Let a conversation go on at this time; False when it is over."""
        row = self._talks.say(talk, at_s)
        if row is None:
            return False
        heapq.heappush(self._later, (at_s, self._planned, row, talk))
        self._planned += 1
        return True


class _User:
    """One user: asks from a stream of its own, so that the others' luck is not its."""

    def __init__(self, talks: Talks, number: int, think_s: Law, streams: Streams) -> None:
        self._talks = talks
        self._think_s = think_s
        self._number = number
        self._random = streams.stream(f"user:{number}")
        self._count = 0

    def think_s(self) -> float:
        return float(self._think_s.at(self._random.standard_normal(1))[0])

    def next_talk(self, at_s: float) -> Talk:
        """A conversation that begins then."""
        talks, self._count = self._talks, self._count + 1
        who = np.array([self._number % talks.people.spec.count])
        models = talks.fashion.pick(np.array([at_s]), self._random.random(1))
        name = f"{talks.spec.name}:{self._number}.{self._count}"
        (talk,) = talks.draw(self._random, [name], who, models)
        return talk
