"""What there is of an answer so far, and which Macs have delivered it.

When a Mac is lost in the middle of an answer another one can go on from the token ids that were
delivered, if it has the same weights. Each Mac is then paid for its own tokens. Pure: no clock,
no connection.
"""

from __future__ import annotations

from market.messages import Part
from market.policy.prefixes import BLOCK_TOKENS, block_hashes
from market.types import Event, Usage
from serve_app.prepare import Prepared
from serve_app.progress import Choice, Progress
from serve_app.race import Attempt


class Answer:
    """One request's tokens, over all the Macs that said some of them.

    `first_s` is when the first of them came, in seconds of the monotonic clock.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._goes_on = prepared.call.n == 1 and prepared.call.top_logprobs is None
        self.progress = Progress(prepared.call.n, 1, len(prepared.prompt_ids))
        self.said: list[int] = []
        self.first_s: float | None = None
        self._parts: list[Part] = []

    def start(self, max_tokens: int) -> None:
        """From nothing: what an earlier Mac said of it counts no more."""
        self.progress = Progress(self._prepared.call.n, max_tokens, len(self._prepared.prompt_ids))
        self.said = []
        self.first_s = None
        self._parts = []

    def absorb(self, event: Event) -> Choice:
        """Count one event; AttemptFailedError when it is a failure or breaks the rules."""
        choice = self.progress.absorb(event)
        if self._goes_on:
            self.said.extend(event.token_ids)
        return choice

    def may_go_on(self, lost: Attempt) -> bool:
        """Whether another Mac with the same weights could say the rest.

        Not for several choices or log-probabilities: their state cannot be rebuilt.
        """
        return self._goes_on and bool(self.said) and bool(lost.grant.digest)

    def lose(self, lost: Attempt) -> None:
        """Its Mac is gone: what it said stays, is its own, and is read again by the next one."""
        own = len(self.said) - lost.said_tokens
        grant = lost.grant
        if own:
            part = Part(grant.payee, grant.machine, grant.provider, own, grant.ask_pct)
            self._parts.append(part)
        self.progress.cached_tokens = 0

    def before(self, tokens: int) -> tuple[Part, ...]:
        """The parts of Macs that were lost, as far as they are among the first `tokens`."""
        found, left = [], tokens
        for part in self._parts:
            own = min(part.completion_tokens, left)
            if own:
                found.append(Part(part.payee, part.machine, part.provider, own, part.ask_pct))
            left -= own
        return tuple(found)

    def usage(self, tokens: int) -> Usage:
        """What the first `tokens` of the answer come to."""
        prompt = len(self._prepared.prompt_ids)
        return Usage(prompt, tokens, self.progress.cached_tokens)

    def prefix(self, scope: str) -> tuple[int, ...]:
        """Block hashes of prompt and answer together: what its Mac may now have in a cache."""
        prompt = self._prepared.prompt_ids
        if len(prompt) + len(self.said) < BLOCK_TOKENS:
            return ()
        return block_hashes([*prompt, *self.said], scope, self._prepared.card.id)
