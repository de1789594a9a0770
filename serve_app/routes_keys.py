"""The routes of accounts, keys and limits.

A key with the scope `keys` manages every key of its account but itself; nothing else does.
What it makes may do no more than it may itself, but for inference.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from market.accounting.state_rows import OwnerRow
from market.errors import Forbidden, InvalidRequest, NotFound
from market.keys import KEYS, beyond
from market.messages import KeyRecord
from market.types import KeyId
from serve_app.asgi import Bodies
from serve_app.client_address import place_of
from serve_app.desk import Desk
from serve_app.openapi import json_body, operation
from serve_app.openapi_inference import OWN_KEY_HEADER
from serve_app.rest import answer, caller, read_shape
from serve_app.schemas import NANO
from serve_app.schemas_keys import (
    AccountBody,
    KeyBody,
    KeyList,
    KeyObject,
    KeyPatch,
    LimitsAnswer,
    NewAccount,
    NewKey,
    RotateBody,
    ThisKey,
)
from serve_app.sealed import read_key
from serve_app.views_keys import (
    allowances,
    changed_limits,
    has_caps,
    key_object,
    limits_of,
    new_key,
    this_key,
)

SECRET_CHARS_LEAST = 20
NO_CREDIT = (
    "Credit for a start is granted once per network and within a budget per day; this account "
    "starts without. Pay in with POST /v1/payments/topups."
)


def add_accounts(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    """Opening accounts: without a key, within a limit per address."""

    @app.post(
        "/v1/accounts",
        response_model=NewAccount,
        status_code=201,
        tags=["accounts"],
        openapi_extra={
            **json_body("AccountBody", required=False),
            "parameters": [OWN_KEY_HEADER],
        },
    )
    async def create_account(request: Request) -> Response:
        """Open an account; its management key makes keys for inference."""
        desk.door.newcomer(request.scope)
        own_key = read_key(request.scope["headers"])
        if own_key is not None and len(own_key) < SECRET_CHARS_LEAST:
            raise InvalidRequest(
                "Whoever knows the Idempotency-Key of a new account can fetch its key: make it "
                f"at least {SECRET_CHARS_LEAST} characters that nobody can guess.",
                "Idempotency-Key",
                "weak_idempotency_key",
            )
        body = await read_shape(request, bodies, AccountBody)
        place = place_of(desk.door.address(request.scope))
        account, record, secret = await desk.ports.accountant.create_account(
            body.name, idempotency=own_key, fingerprint=desk.ports.sealer.place(place)
        )
        owner = await desk.ports.accountant.account(account)
        return answer(_new_account(owner, record, secret), 201)


def _new_account(owner: OwnerRow, record: KeyRecord, secret: str) -> NewAccount:
    return NewAccount(
        account_id=owner.id,
        management_key=new_key(record, secret),
        promo_nano_usd=str(owner.promo_nano),
        promo_usd=owner.promo_nano / NANO,
        promo_note=None if owner.promo_nano else NO_CREDIT,
    )


def add_keys(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    """Making, showing, changing and ending keys, and what the asking key may do."""
    _add_making(app, desk, bodies)
    _add_changing(app, desk, bodies)
    _add_own(app, desk)


def _add_making(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    accountant = desk.ports.accountant

    @app.post(
        "/v1/keys",
        response_model=NewKey,
        status_code=201,
        tags=["keys"],
        openapi_extra=operation(KEYS, body="KeyBody", required=False, own_key=True),
    )
    async def create_key(request: Request) -> Response:
        """Make a key of this account. Its secret is shown this once."""
        record = await caller(desk, request, KEYS)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, KeyBody)
        expires_s = None
        if body.expires_in_s is not None:
            expires_s = desk.ports.clock.now_s() + body.expires_in_s
        _check_models(desk, body.models)
        scopes = frozenset(body.scopes)
        if "scopes" in body.model_fields_set:
            _check_gives(record, scopes, "give")
        else:
            scopes -= beyond(record.scopes, scopes)  # nobody has asked for more
        made, secret = await accountant.create_key(
            record.account,
            body.name,
            scopes,
            expires_s,
            limits_of(body.models, body.caps),
            own_key,
        )
        return answer(new_key(made, secret), 201)

    @app.post(
        "/v1/keys/{key_id}/rotate",
        response_model=NewKey,
        status_code=201,
        tags=["keys"],
        openapi_extra=operation(KEYS, body="RotateBody", required=False, own_key=True),
    )
    async def rotate_key(request: Request, key_id: str) -> Response:
        """A new secret with all that the key may do; the old one lives on for `grace_s`."""
        record = await caller(desk, request, KEYS)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, RotateBody)
        _check_other(record, key_id, "rotate")
        old = await _known(desk, record, key_id)
        _check_gives(record, old.scopes, "rotate a key that has")
        made, secret = await accountant.rotate_key(
            record.account, KeyId(key_id), float(body.grace_s), own_key
        )
        return answer(new_key(made, secret), 201)


def _add_changing(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    accountant = desk.ports.accountant

    @app.get("/v1/keys", response_model=KeyList, tags=["keys"], openapi_extra=operation(KEYS))
    async def list_keys(request: Request) -> Response:
        """The account's keys, without their secrets."""
        record = await caller(desk, request, KEYS)
        records = await accountant.list_keys(record.account)
        return answer(KeyList(data=[key_object(entry) for entry in records]))

    @app.patch(
        "/v1/keys/{key_id}",
        response_model=KeyObject,
        tags=["keys"],
        openapi_extra=operation(KEYS, body="KeyPatch"),
    )
    async def change_key(request: Request, key_id: str) -> Response:
        """Rename a key, or give it other caps or models."""
        record = await caller(desk, request, KEYS)
        patch = await read_shape(request, bodies, KeyPatch)
        _check_other(record, key_id, "change")
        _check_models(desk, patch.models)
        limits_of(None, patch.caps)  # a wrong sum is told before a wrong id
        now = await _known(desk, record, key_id)
        limits = changed_limits(now.limits, patch)
        changed = await accountant.change_key(record.account, now.key_id, patch.name, limits)
        return answer(key_object(changed))

    @app.delete(
        "/v1/keys/{key_id}",
        response_model=KeyObject,
        tags=["keys"],
        openapi_extra=operation(KEYS),
    )
    async def revoke_key(request: Request, key_id: str) -> Response:
        """Revoke a key; every gateway refuses it within a second."""
        record = await caller(desk, request, KEYS)
        _check_other(record, key_id, "revoke")
        return answer(key_object(await accountant.revoke_key(record.account, KeyId(key_id))))


def _check_models(desk: Desk, models: list[str] | None) -> None:
    """A key for a model that is mistyped would refuse everything; say so at once."""
    for at, model in enumerate(models or ()):
        try:
            desk.ports.catalogue.get(model)
        except NotFound as error:
            raise InvalidRequest(error.message, f"models[{at}]", error.code) from None


def _check_other(record: KeyRecord, key_id: str, act: str) -> None:
    if record.key_id == key_id:
        raise Forbidden(f"A key cannot {act} itself; use another management key.", None, "own_key")


async def _known(desk: Desk, record: KeyRecord, key_id: str) -> KeyRecord:
    """A key of the caller's account; NotFound for any other."""
    for entry in await desk.ports.accountant.list_keys(record.account):
        if entry.key_id == key_id:
            return entry
    raise NotFound("There is no such key of this account.", "key_id", "key_not_found")


def _check_gives(record: KeyRecord, scopes: frozenset[str], act: str) -> None:
    """A new secret may do no more than the key it is made with, but for inference."""
    lacking = beyond(record.scopes, scopes)
    if lacking:
        named = " and ".join(sorted(lacking))
        raise Forbidden(
            f"This key lacks the scope {named}, so it cannot {act} {named}: a key passes on "
            "inference and what it has itself. Use the management key that the account was opened "
            "with.",
            "scopes" if act == "give" else "key_id",
            "missing_scope",
        )


def _add_own(app: FastAPI, desk: Desk) -> None:
    async def shown(record: KeyRecord) -> ThisKey:
        spend = None
        if has_caps(record.limits):
            spend = await desk.ports.accountant.key_spend(record.account, record.key_id)
        return this_key(record, spend)

    @app.get("/v1/key", response_model=ThisKey, tags=["keys"], openapi_extra=operation())
    async def own_key(request: Request) -> Response:
        """The key this request was made with."""
        return answer(await shown(await caller(desk, request)))

    @app.get("/v1/limits", response_model=LimitsAnswer, tags=["keys"], openapi_extra=operation())
    async def limits(request: Request) -> Response:
        """What this key and its account may do now, and when the rest is back."""
        record = await caller(desk, request)
        tier, rate = await desk.ports.accountant.standing(record.account)
        requests, tokens = allowances(rate)
        return answer(
            LimitsAnswer(
                tier=tier,
                requests_per_minute=requests,
                tokens_per_day=tokens,
                key=await shown(record),
            )
        )
