"""The shapes of accounts, keys and their limits. Sums in bodies are decimal strings: exact."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.schemas import Shape

YEARS_MOST = 10
DAY_S = 86_400
GRACE_S_MOST = 30 * DAY_S
MODELS_MOST = 100
CALLERS_OWN_KEY = "Idempotency-Key"

Scope = Literal["inference", "billing:read", "fleet:read", "payouts", "keys"]
Dollars = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,10}(\.[0-9]{1,9})?$",
        max_length=20,
        description="USD as a decimal string, at most nine decimals, such as `1.50`",
    ),
]
Name = Annotated[str, Field(max_length=100)]
ModelIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=300)]],
    Field(min_length=1, max_length=MODELS_MOST, description="The only models it may use"),
]


class AccountBody(Shape):
    """A new account; the name is only for its owner."""

    name: Name = ""


class Caps(Shape):
    """Hard caps of a key per UTC day, ISO week and calendar month; null is no cap."""

    day_usd: Dollars | None = None
    week_usd: Dollars | None = None
    month_usd: Dollars | None = None


class KeyBody(Shape):
    """A new key. `expires_in_s` is from now; without `models` it may use all of them.

    `scopes` are among those of the key that asks; `inference` every management key may give.
    Without them it is `inference`, and `billing:read` where the key that asks has it.
    """

    name: Name = ""
    scopes: list[Scope] = Field(default=["inference", "billing:read"], min_length=1, max_length=5)
    expires_in_s: int | None = Field(default=None, ge=60, le=YEARS_MOST * 366 * DAY_S)
    models: ModelIds | None = None
    caps: Caps | None = None


class KeyPatch(Shape):
    """What to change: a field that is left out stays; `models: null` allows all of them.

    Of `caps` the windows that are given change, null lifts one; `caps: null` lifts all.
    """

    name: Name | None = None
    models: ModelIds | None = None
    caps: Caps | None = None


class RotateBody(Shape):
    """How long the old key lives on beside the new one."""

    grace_s: int = Field(default=3_600, ge=0, le=GRACE_S_MOST)


class KeyObject(Shape):
    """A key without its secret. `models: null` is all of them; `replaces` is what it rotated."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str
    scopes: list[str]
    tier: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    models: list[str] | None
    caps: Caps
    replaces: str | None


class NewKey(KeyObject):
    """A key with its secret, which is shown this once."""

    key: str


class KeyList(Shape):
    """The keys of one account."""

    object: Literal["list"] = "list"
    data: list[KeyObject]


class Window(Shape):
    """A present window of a capped key: charged so far, and when it begins anew."""

    cap_nano_usd: str | None
    cap_usd: float | None
    spent_nano_usd: str
    spent_usd: float
    resets_at: str


class Spend(Shape):
    """What a key with caps has spent; running requests hold `held` of today's cap besides."""

    day: Window
    week: Window
    month: Window
    held_nano_usd: str
    held_usd: float


class ThisKey(KeyObject):
    """The key that asks. Only of a key with caps is the spending counted; else it is null."""

    spend: Spend | None


class Allowance(Shape):
    """One limit of the account: how much there is, is left, and until all of it is back."""

    limit: int
    remaining: int
    resets_in_s: float


class LimitsAnswer(Shape):
    """What this caller may do now. null: unlimited."""

    object: Literal["limits"] = "limits"
    tier: str
    requests_per_minute: Allowance | None
    tokens_per_day: Allowance | None
    key: ThisKey


class NewAccount(Shape):
    """A fresh account and the key that manages its keys."""

    account_id: str
    object: Literal["account"] = "account"
    management_key: NewKey
    promo_nano_usd: str = Field(description="Credit granted for a start")
    promo_usd: float
    promo_note: str | None = Field(description="Why no credit was granted")
