"""How the fake is told to misbehave: by counts, so that a run can be repeated exactly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.fake_stripe.faults import Json, Refusal

FaultKind = Literal["execute_then_drop", "fail_before", "fail_after", "rate_limit", "stall"]
Count = Annotated[int, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Fault(BaseModel):
    """What happens to the next `times` requests of a route.

    `execute_then_drop` does what was asked and closes the connection; `fail_before` answers
    500 and has done nothing; `fail_after` answers 500 having done it, and remembers the 500;
    `rate_limit` answers 429; `stall` waits `stall_s` before doing it.
    """

    model_config = ConfigDict(extra="forbid")

    route: str = Field(max_length=100)
    kind: FaultKind
    times: Count = 1
    stall_s: Seconds = 0.0
    retry_after_s: Seconds | None = None


class WebhookKnobs(BaseModel):
    """What happens to notices: sent `1 + duplicates` times, reordered, late or never.

    Notices are held until `reorder_window` of them wait, then sent last first; `delay_s`
    goes before each; `drop_next` are lost for good; of every 100, the first
    `drop_percent` are.
    """

    model_config = ConfigDict(extra="forbid")

    duplicates: Count = 0
    reorder_window: Count = 0
    delay_s: Seconds = 0.0
    drop_next: Count = 0
    drop_percent: Annotated[int, Field(ge=0, le=100)] = 0


class Knobs(BaseModel):
    """All of them; `refunds_wait` leaves new refunds pending."""

    model_config = ConfigDict(extra="forbid")

    webhooks: WebhookKnobs = WebhookKnobs()
    faults: list[Fault] = Field(default=[], max_length=100)
    refunds_wait: bool = False

    def take(self, route: str) -> Fault | None:
        """The fault of this request, counted down."""
        for fault in self.faults:
            if fault.route == route and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def read_knobs(body: Json) -> Knobs:
    """New knobs. Raises Refusal naming the first that is wrong."""
    try:
        return Knobs.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"])[:200]
        raise Refusal(f"Not a knob or not a value of one: {param}.", param=param) from None
