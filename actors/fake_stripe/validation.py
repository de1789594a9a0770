"""What Stripe's own types say about a question: pydantic over stripe-python's parameter types.

A misspelt, missing or mistyped parameter is refused here with Stripe's code and the
parameter's name, so a call that the fake takes is one that the package's types allow. The
request options that some of those types carry are no parameters and are left out; so are
the `| str` arms that open a list of literals, for a test wants to know about a wrong literal.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union

import stripe
import typing_extensions as more
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from stripe._request_options import RequestOptions
from stripe._stripe_object import UntypedStripeObject
from stripe.params.checkout import SessionCreateParams, SessionListParams
from stripe.params.v2 import core as v2

from actors.fake_stripe.faults import Json, Refusal

WHOLE = re.compile(r"-?[0-9]{1,18}")
OPTIONS = frozenset(RequestOptions.__annotations__)

QUESTIONS: dict[str, Any] = {
    "POST /v1/checkout/sessions": SessionCreateParams,
    "GET /v1/checkout/sessions": SessionListParams,
    "POST /v1/refunds": stripe.params.RefundCreateParams,
    "GET /v1/refunds": stripe.params.RefundListParams,
    "POST /v1/transfers": stripe.params.TransferCreateParams,
    "GET /v1/transfers": stripe.params.TransferListParams,
    "POST /v1/transfers/{id}/reversals": stripe.params.TransferReversalCreateParams,
    "GET /v1/payment_intents": stripe.params.PaymentIntentListParams,
    "GET /v1/charges": stripe.params.ChargeListParams,
    "GET /v1/disputes": stripe.params.DisputeListParams,
    "GET /v1/balance_transactions": stripe.params.BalanceTransactionListParams,
    "GET /v1/events": stripe.params.EventListParams,
    "POST /v2/core/accounts": v2.AccountCreateParams,
    "GET /v2/core/accounts": v2.AccountListParams,
    "GET /v2/core/accounts/{id}": v2.AccountRetrieveParams,
    "POST /v2/core/account_links": v2.AccountLinkCreateParams,
    "GET /v2/core/events": v2.EventListParams,
}


class Expand(more.TypedDict):
    """What every other v1 question may carry."""

    expand: more.NotRequired[list[str]]


CODES = {
    "extra_forbidden": ("parameter_unknown", "Received unknown parameter"),
    "missing": ("parameter_missing", "Missing required param"),
    "int_parsing": ("parameter_invalid_integer", "Invalid integer"),
    "int_type": ("parameter_invalid_integer", "Invalid integer"),
    "int_from_float": ("parameter_invalid_integer", "Invalid integer"),
}


def check(question: str, params: Json) -> Json:
    """The parameters as Stripe's types read them. Raises Refusal naming the first bad one."""
    try:
        checked: Json = _adapter(question).validate_python(
            params, strict=question.startswith("POST /v2/")
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        code, words = CODES.get(first["type"], ("parameter_invalid", "Invalid value"))
        param = _param(first["loc"])
        raise Refusal(f"{words}: {param}.", param=param, code=code) from None
    except RecursionError:
        raise Refusal("The parameters are nested too deeply.") from None
    return checked


def _param(location: tuple[int | str, ...]) -> str:
    """`line_items[0][quantity]`; pydantic's names of union arms are left out."""
    names = [str(part) for part in location if str(part).replace("_", "").isalnum()]
    head, *rest = names or ["(root)"]
    return (head + "".join(f"[{part}]" for part in rest))[:200]


@cache
def _adapter(question: str) -> TypeAdapter[Any]:
    return TypeAdapter(_closed(QUESTIONS.get(question, Expand)))


@cache
def _closed(shape: Any) -> Any:
    """The same typed dictionary, refusing names it does not know."""
    names = {
        **vars(sys.modules[shape.__module__]),
        "StripeContext": stripe.StripeContext,
        "Mapping": Mapping,
    }
    hints = more.get_type_hints(shape, names, include_extras=True)
    fields = {name: _arm(hint) for name, hint in hints.items() if name not in OPTIONS}
    make: Any = more.TypedDict  # the functional form: the fields are only known here
    closed: Any = make(shape.__name__, fields)
    closed.__pydantic_config__ = ConfigDict(extra="forbid")
    return closed


def _whole(value: Any) -> Any:
    """Forms carry text: pydantic would also read 10.0 and 1_000, which Stripe does not."""
    if isinstance(value, str) and not WHOLE.fullmatch(value):
        raise PydanticCustomError("int_parsing", "not a whole number")
    return value


def _arm(hint: Any) -> Any:
    if hint is int:
        return Annotated[int, BeforeValidator(_whole)]
    origin, arguments = more.get_origin(hint), more.get_args(hint)
    if more.is_typeddict(hint):
        return _closed(hint)
    if origin in (more.NotRequired, more.Required):
        return origin[_arm(arguments[0])]
    if origin in (typing.Union, types.UnionType):
        arms = [arm for arm in arguments if not _untyped(arm)]
        if any(more.get_origin(arm) is Literal for arm in arms):
            arms = [arm for arm in arms if arm is not str]
        return Union[tuple(_arm(arm) for arm in arms)]  # noqa: UP007 - built at run time
    if origin is list:
        return list[_arm(arguments[0])]  # type: ignore[misc]
    return hint


def _untyped(arm: Any) -> bool:
    return arm is UntypedStripeObject or more.get_origin(arm) is UntypedStripeObject
