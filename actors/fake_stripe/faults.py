"""What the fake says no with, in the shape of Stripe's errors."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """A 4xx in Stripe's words. `kept` ones are replayed under the same idempotency key.

    As at Stripe, a question that was malformed is not remembered; one that was understood
    and refused for the state of things is.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - Stripe's word
        kept: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kept = kept
        self.body: Json = {"error": {"type": type, "message": message}}
        if param is not None:
            self.body["error"]["param"] = param
        if code is not None:
            self.body["error"]["code"] = code


def no_such(kind: str, param: str = "id", status: int = 404) -> Refusal:
    """The object is not here; the id is not quoted."""
    return Refusal(f"No such {kind}.", param=param, code="resource_missing", status=status)
