"""One answer per idempotency key for a day: replayed, refused to others, never made twice."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.world import DAY_S, World

KEY_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was first given, by which request."""

    status: int
    body: Json
    request: str


class Keys:
    """The keys of a world: answers are kept in it, those being worked on only here."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._busy: set[str] = set()

    def begin(self, key: str, fingerprint: str) -> Kept | None:
        """Take the key, or get the answer it has had. Raises Refusal for any other use."""
        if not 0 < len(key) <= KEY_CHARACTERS_MAX:
            raise Refusal("An idempotency key has 1 to 255 characters.", param="Idempotency-Key")
        self._prune()
        if key in self._busy:
            raise Refusal(
                "There is another request in progress with this idempotency key.",
                code="idempotency_key_in_use",
                status=409,
                type="idempotency_error",
            )
        kept = self._world.answers.get(key)
        if kept is None:
            self._busy.add(key)
            return None
        if kept["fingerprint"] != fingerprint:
            raise Refusal(
                "An idempotency key can only be used with the same parameters as at first.",
                type="idempotency_error",
            )
        return Kept(kept["status"], kept["body"], kept["request"])

    def keep(self, key: str, fingerprint: str, answer: Kept) -> None:
        """Remember the answer of a key that was begun."""
        self._world.answers[key] = {
            "fingerprint": fingerprint,
            "status": answer.status,
            "body": answer.body,
            "request": answer.request,
            "created_s": self._world.now_s(),
        }

    def end(self, key: str) -> None:
        """Let go of a key that was begun, answered or not."""
        self._busy.discard(key)

    def _prune(self) -> None:
        before_s = self._world.now_s() - DAY_S
        answers = self._world.answers
        # Kept in the order they were made, and the clock only goes forward.
        for key in list(answers):
            if answers[key]["created_s"] > before_s:
                break
            del answers[key]


def fingerprint(method: str, path: str, body: bytes) -> str:
    return sha256(b"\0".join((method.encode(), path.encode(), body))).hexdigest()
