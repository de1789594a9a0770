"""One choice of one job while it runs: tokens in, events out, exactly one ending.

Every engine feeds its tokens through here, so counting, stop strings, held-back text and the
ways to finish are the same whatever produced the tokens.

A choice that another Mac began is rebuilt from the tokens it said: its client has exactly the
text that came of them, so what they give is dropped and what they hold back is kept.
"""

from __future__ import annotations

from actors.engines.text import StopScanner, Vocabulary
from market.errors import InvalidRequest
from market.types import Event, FinishReason, Job, JobFailure, TokenLogprob


class Choice:
    """The running state of choice `index` of `job`. After `finished`, no more events.

    Raises InvalidRequest when what was said has ended the answer already.
    """

    __slots__ = ("_decoder", "_scanner", "cached_tokens", "count", "finished", "index", "job")

    def __init__(self, job: Job, index: int, vocabulary: Vocabulary) -> None:
        self.job = job
        self.index = index
        self.count = len(job.said)
        self.cached_tokens = 0
        self.finished = False
        self._decoder = vocabulary.decoder()
        self._scanner = StopScanner(job.stop) if job.stop else None
        if job.said:
            self._repeat(job.said)

    def _repeat(self, said: tuple[int, ...]) -> None:
        """Come to where the last Mac was."""
        text = "".join(self._decoder.push(token) for token in said)
        if self._scanner is None:
            return
        self._scanner.push(text)
        if self._scanner.stopped:
            raise InvalidRequest(
                "What was said ends with a stop string: there is nothing to continue.",
                "said",
                "invalid_value",
            )

    def push(self, token_id: int, is_end: bool, logprobs: tuple[TokenLogprob, ...] = ()) -> Event:
        """The event of one more token. `is_end` marks an end-of-sequence token."""
        assert not self.finished
        self.count += 1
        text = "" if is_end else self._decoder.push(token_id)
        if self._scanner is not None:
            text = self._scanner.push(text)
        finish: FinishReason | None = None
        if self._stopped():
            finish = "stop"
        elif is_end or self.count >= self.job.max_tokens:
            text += self._flush()
            finish = "stop" if is_end or self._stopped() else "length"
        self.finished = finish is not None
        return Event(
            self.job.request_id,
            self.index,
            (token_id,),
            text,
            self.count,
            finish,
            self.cached_tokens,
            logprobs,
        )

    def end(self, finish: FinishReason) -> Event:
        """The event that ends this choice without another token."""
        assert not self.finished
        text = self._flush()
        self.finished = True
        return Event(
            self.job.request_id, self.index, (), text, self.count, finish, self.cached_tokens
        )

    def fail(self, failure: JobFailure) -> Event:
        """The event that ends the whole job with an error."""
        assert not self.finished
        self.finished = True
        return Event(
            self.job.request_id,
            self.index,
            (),
            "",
            self.count,
            "error",
            self.cached_tokens,
            error=failure,
        )

    def _stopped(self) -> bool:
        return self._scanner is not None and self._scanner.stopped

    def _flush(self) -> str:
        """What the decoder and the scanner still hold; the decoder's part may hold a stop."""
        text = self._decoder.flush()
        if self._scanner is None:
            return text
        text = self._scanner.push(text)
        return text if self._scanner.stopped else text + self._scanner.flush()
