"""From the market's records of keys and limits to the shapes of the API, and back. Pure."""

from __future__ import annotations

from market.errors import InvalidRequest
from market.messages import KeyLimits, KeyRecord, KeySpend, RateState
from market.money import NANO_PER_USD, parse_usd
from serve_app.schemas_keys import (
    Allowance,
    Caps,
    KeyObject,
    KeyPatch,
    NewKey,
    Spend,
    ThisKey,
    Window,
)
from serve_app.views import stamp


def usd_text(nano: int | None) -> str | None:
    """Nano-USD as the decimal string that a body takes: `1.5`, `0.000000001`."""
    if nano is None:
        return None
    dollars, rest = divmod(nano, NANO_PER_USD)
    return f"{dollars}.{rest:09d}".rstrip("0").rstrip(".")


def key_fields(record: KeyRecord) -> dict[str, object]:
    """What all key shapes have in common."""
    limits = record.limits
    return {
        "id": record.key_id,
        "name": record.name,
        "prefix": record.prefix,
        "scopes": sorted(record.scopes),
        "tier": record.tier,
        "created_at": stamp(record.created_s),
        "expires_at": None if record.expires_s is None else stamp(record.expires_s),
        "revoked_at": None if record.revoked_s is None else stamp(record.revoked_s),
        "models": sorted(limits.models) or None,
        "caps": {
            "day_usd": usd_text(limits.cap_day_nano),
            "week_usd": usd_text(limits.cap_week_nano),
            "month_usd": usd_text(limits.cap_month_nano),
        },
        "replaces": record.replaces,
    }


def key_object(record: KeyRecord) -> KeyObject:
    """A key without its secret."""
    return KeyObject.model_validate(key_fields(record))


def new_key(record: KeyRecord, secret: str) -> NewKey:
    """A key with its secret."""
    return NewKey.model_validate({**key_fields(record), "key": secret})


def has_caps(limits: KeyLimits) -> bool:
    """Whether anything is counted for the key."""
    caps = (limits.cap_day_nano, limits.cap_week_nano, limits.cap_month_nano)
    return any(cap is not None for cap in caps)


def this_key(record: KeyRecord, spend: KeySpend | None) -> ThisKey:
    """The key that asks, with its spending when it has caps."""
    shown = None if spend is None else _spend(record.limits, spend)
    return ThisKey.model_validate({**key_fields(record), "spend": shown})


def _spend(limits: KeyLimits, spend: KeySpend) -> Spend:
    return Spend(
        day=_window(limits.cap_day_nano, spend.day_nano, spend.day_ends_s),
        week=_window(limits.cap_week_nano, spend.week_nano, spend.week_ends_s),
        month=_window(limits.cap_month_nano, spend.month_nano, spend.month_ends_s),
        held_nano_usd=str(spend.held_nano),
        held_usd=spend.held_nano / NANO_PER_USD,
    )


def _window(cap_nano: int | None, spent_nano: int, ends_s: float) -> Window:
    return Window(
        cap_nano_usd=None if cap_nano is None else str(cap_nano),
        cap_usd=None if cap_nano is None else cap_nano / NANO_PER_USD,
        spent_nano_usd=str(spent_nano),
        spent_usd=spent_nano / NANO_PER_USD,
        resets_at=stamp(ends_s),
    )


def allowances(rate: RateState) -> tuple[Allowance | None, Allowance | None]:
    """Requests per minute and tokens per day."""
    return (
        _allowance(rate.limit_requests, rate.remaining_requests, rate.reset_requests_s),
        _allowance(rate.limit_tokens, rate.remaining_tokens, rate.reset_tokens_s),
    )


def _allowance(limit: int | None, remaining: int | None, reset_s: float) -> Allowance | None:
    if limit is None:
        return None
    return Allowance(limit=limit, remaining=max(0, remaining or 0), resets_in_s=round(reset_s, 3))


def limits_of(models: list[str] | None, caps: Caps | None) -> KeyLimits:
    """The limits that a body asks for; InvalidRequest for a sum the ledger cannot hold."""
    given = caps or Caps()
    return KeyLimits(
        frozenset(models or ()),
        _nano("caps.day_usd", given.day_usd),
        _nano("caps.week_usd", given.week_usd),
        _nano("caps.month_usd", given.month_usd),
    )


def changed_limits(limits: KeyLimits, patch: KeyPatch) -> KeyLimits | None:
    """The limits after a change; None when it touches none of them."""
    if not {"models", "caps"} & patch.model_fields_set:
        return None
    models, caps = limits.models, (limits.cap_day_nano, limits.cap_week_nano, limits.cap_month_nano)
    if "models" in patch.model_fields_set:
        models = frozenset(patch.models or ())
    if "caps" in patch.model_fields_set:
        asked = patch.caps or Caps(day_usd=None, week_usd=None, month_usd=None)
        wanted = limits_of(None, asked)
        new = (wanted.cap_day_nano, wanted.cap_week_nano, wanted.cap_month_nano)
        given = [name in asked.model_fields_set for name in ("day_usd", "week_usd", "month_usd")]
        caps = tuple(  # type: ignore[assignment]
            after if is_given else before
            for before, after, is_given in zip(caps, new, given, strict=True)
        )
    return KeyLimits(models, *caps)


def _nano(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_usd(text)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}.", field, "out_of_range") from None
