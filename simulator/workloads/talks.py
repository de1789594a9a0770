"""Conversations: requests that begin with what was said before, and with a shared system prompt.

A conversation is drawn as a whole when it begins, so that what it says does not depend on how
soon it is answered: every policy meets the same ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from market.policy.preferences import Preferences
from simulator.streams import Streams
from simulator.workloads.blocks import blocks_in, blocks_of, shared_blocks, text_id
from simulator.workloads.laws import Fixed, FloatArray, IntArray
from simulator.workloads.people import Fashion, People, Wishing, pick, zipf
from simulator.workloads.rows import Fit, Notes, Row
from simulator.workloads.spec import Sessions, Synthetic

TURNS_MAX = 1_000
ONE_TURN = Sessions(turns=Fixed(1.0), think_s=Fixed(0.0))
ENDED = "conversations that ended at the model's context"


@dataclass(slots=True, eq=False)
class Talk:
    """One conversation. `news` are what is asked anew in each turn; `tokens` is all that was
    said until now, the system prompt included, and `blocks` the hashes of that: at first those
    of the system prompt, which are its consumer's, then those of the text `own`.
    """

    name: str
    who: int
    model: int
    preferences: Preferences
    news: list[float]
    outputs: list[float]
    thinks_s: list[float]
    own: int
    tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    turn: int = 0

    @property
    def goes_on(self) -> bool:
        return self.turn < len(self.news)


class Talks:
    """Draws conversations and lets them speak."""

    def __init__(self, spec: Synthetic, streams: Streams, notes: Notes) -> None:
        self.spec = spec
        self.people = People(spec.consumers, spec.name, streams)
        self.fashion = Fashion(spec.models, streams)
        self.wishing = Wishing(spec.terms.wishes, spec.models, spec.consumers.count, streams)
        self._sessions = spec.sessions or ONE_TURN
        self._named = spec.sessions is not None or spec.users is not None
        self._fit = Fit(spec.models.cards, spec.terms.max_tokens, notes)
        self._notes = notes
        self._system_tokens: FloatArray = np.zeros(1)
        self._system_shares = np.ones(1)
        if spec.prefixes is not None:
            count = spec.prefixes.count
            scores = streams.stream("prefixes:tokens").standard_normal(count)
            self._system_tokens = np.rint(spec.prefixes.tokens.at(scores))
            self._system_shares = zipf(count, spec.prefixes.zipf)

    def draw(
        self, random: np.random.Generator, names: list[str], who: IntArray, models: IntArray
    ) -> list[Talk]:
        """One conversation each."""
        count = len(names)
        drawn = self._sessions.turns.at(random.standard_normal(count))
        turns = np.clip(np.rint(drawn), 1, TURNS_MAX).astype(np.int64)
        total = int(turns.sum())
        factor = np.repeat(self.people.length_factor[who], turns)
        news, outputs = self.spec.lengths.draw(random, total)
        thinks = self._sessions.think_s.at(random.standard_normal(total))
        systems = pick(self._system_shares, random.random(count)).tolist()
        preferences = self.wishing.draw(who, models)
        ends = np.cumsum(turns).tolist()
        talks = []
        news_list, outputs_list = (news * factor).tolist(), (outputs * factor).tolist()
        thinks_list = thinks.tolist()
        for number, (name, end) in enumerate(zip(names, ends, strict=True)):
            part = slice(end - int(turns[number]), end)
            consumer, model = int(who[number]), int(models[number])
            talk = Talk(
                name=name,
                who=consumer,
                model=model,
                preferences=preferences[number],
                news=news_list[part],
                outputs=outputs_list[part],
                thinks_s=thinks_list[part],
                own=text_id(self.spec.name, name),
                tokens=int(self._system_tokens[systems[number]]),
            )
            if talk.tokens:
                consumer_name, model_id = self.people.names[consumer], self.fashion.ids[model]
                system = shared_blocks(talk.tokens, consumer_name, model_id, systems[number])
                talk.blocks.extend(system)
            talks.append(talk)
        return talks

    def turn(self, talk: Talk) -> tuple[int, int, int] | None:
        """Tokens of the next prompt, of its answer and of its limit; None when a conversation is
        over, or has no room for more.
        """
        if not talk.goes_on:
            return None
        news, output = talk.news[talk.turn], talk.outputs[talk.turn]
        prompt = talk.tokens + max(round(news), 1)
        if talk.turn and not self._fit.holds(prompt, output, talk.model):
            self._notes[ENDED] += 1
            talk.turn = len(talk.news)
            return None
        fitted = self._fit.one(prompt, output, talk.model)
        talk.turn += 1
        talk.tokens = fitted[0] + fitted[1]
        return fitted

    def say(self, talk: Talk, at_s: float) -> Row | None:
        """The next request of a conversation; None as `turn`."""
        fitted = self.turn(talk)
        if fitted is None:
            return None
        prompt, said, limit = fitted
        known = blocks_in(talk.tokens)
        del talk.blocks[known:]  # of a system prompt that is longer than the context
        talk.blocks += blocks_of(talk.own, len(talk.blocks), known)
        terms = self.spec.terms
        return (
            at_s,
            self.people.names[talk.who],
            self.fashion.ids[talk.model],
            prompt,
            said,
            limit,
            terms.request_class,
            talk.name if self._named else "",
            tuple(talk.blocks[: blocks_in(prompt)]),
            tuple(talk.blocks),
            terms.deadline_s,
            talk.preferences,
            self.spec.name,
        )

    def answer_s(self, output_tokens: int) -> float:
        """How long an answer is taken to need, where nobody waits for the real one."""
        return output_tokens / self._sessions.tokens_per_s


def begun(
    talks: Talks, streams: Streams, starts: Iterator[tuple[FloatArray, IntArray]]
) -> Iterator[tuple[float, Talk]]:
    """Conversations and when they begin, in order, without end."""
    random, number = streams.stream("lengths"), 0
    for at_s, who in starts:
        models = talks.fashion.draw(at_s)
        names = [f"{talks.spec.name}:{number + n}" for n in range(len(at_s))]
        number += len(at_s)
        yield from zip(at_s.tolist(), talks.draw(random, names, who, models), strict=True)


def talk_rows(talks: Talks, beginnings: Iterator[tuple[float, Talk]]) -> Iterator[Row]:
    """The requests of all conversations in order of time, each turn when its client would send
    it if answers came at the pace that it expects.
    """
    later: list[tuple[float, int, Talk]] = []
    planned = 0
    for begin_s, begun_talk in beginnings:
        heapq.heappush(later, (begin_s, planned, begun_talk))
        planned += 1
        # Whatever is due until then comes before everything that has not begun yet.
        while later and later[0][0] <= begin_s:
            at_s, _, talk = heapq.heappop(later)
            think_s = talk.thinks_s[talk.turn]
            row = talks.say(talk, at_s)
            if row is not None:
                yield row
                if talk.goes_on:
                    next_s = at_s + talks.answer_s(row[4]) + think_s
                    heapq.heappush(later, (next_s, planned, talk))
                    planned += 1
