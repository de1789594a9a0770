"""Every route but inference: models, prices, money, accounts, keys and health.

Handlers say what is asked of which port; checks of keys and shapes happen before, and
whatever goes wrong leaves through `rest`'s handlers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from market.errors import Forbidden, Unavailable
from market.messages import KeyRecord
from market.types import KeyId, RequestId
from serve_app import auth
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.openapi import describe, json_body
from serve_app.ports import DRAINING
from serve_app.rest import Gate, answer, new_app, read_shape
from serve_app.schemas import (
    AccountBody,
    BalanceAnswer,
    Generation,
    Health,
    KeyBody,
    KeyList,
    KeyObject,
    ModelList,
    ModelObject,
    NewAccount,
    NewKey,
    PriceList,
    Readiness,
    UsageEntry,
)
from serve_app.views import (
    balance_answer,
    generation,
    key_fields,
    key_object,
    model_object,
    price_row,
    usage_entry,
)

ACCOUNTS_BURST = 10  # new accounts at once from one address
USAGE_ROWS_DEFAULT = 100
USAGE_ROWS_MOST = 1_000
RowLimit = Annotated[int, Query(ge=1, le=USAGE_ROWS_MOST)]
_SECURED: dict[str, Any] = {"security": [{"apiKey": []}]}


def package_version() -> str:
    """The version of this distribution, "0" when run from a bare tree."""
    try:
        return version("coster")
    except PackageNotFoundError:
        return "0"


def build_routes(desk: Desk, bodies: Bodies) -> FastAPI:
    """The FastAPI app behind the hot routes."""
    app = new_app(
        "coster",
        package_version(),
        "An open market for inference on Macs, with OpenAI's API.",
    )
    _add_models(app, desk)
    _add_money(app, desk)
    _add_accounts(app, desk, bodies)
    _add_keys(app, desk, bodies)
    _add_health(app, desk)
    describe(app)
    return app


async def _caller(desk: Desk, request: Request, scope: str | None) -> KeyRecord:
    header = request.headers.get("authorization")
    raw = None if header is None else header.encode("latin-1")
    _, record = await desk.keys.identify(raw, scope)
    return record


def _add_models(app: FastAPI, desk: Desk) -> None:
    catalogue, router = desk.ports.catalogue, desk.ports.router

    def listed() -> list[ModelObject]:
        states = {state.model: state for state in router.availability()}
        return [model_object(card, states.get(card.id)) for card in catalogue.enabled()]

    @app.get("/v1/models", response_model=ModelList, tags=["models"])
    async def list_models() -> Response:
        """All models on offer, with price and availability, from cache."""
        return answer(ModelList(data=listed()))

    @app.get("/v1/models/{model_id:path}", response_model=ModelObject, tags=["models"])
    async def get_model(model_id: str) -> Response:
        """One model; its id may contain slashes."""
        card = catalogue.get(model_id)
        states = {state.model: state for state in router.availability()}
        return answer(model_object(card, states.get(card.id)))

    @app.get("/v1/pricing", response_model=PriceList, tags=["money"])
    async def pricing() -> Response:
        """Current rates of every model. No key is needed."""
        return answer(PriceList(models=[price_row(card) for card in catalogue.enabled()]))


def _add_money(app: FastAPI, desk: Desk) -> None:
    accountant = desk.ports.accountant

    @app.get(
        "/v1/payments/balance",
        response_model=BalanceAnswer,
        tags=["money"],
        openapi_extra=_SECURED,
    )
    async def balance(request: Request) -> Response:
        """What the account has, can withdraw and has on hold."""
        record = await _caller(desk, request, auth.BILLING_READ)
        return answer(balance_answer(await accountant.balance(record.account)))

    @app.get(
        "/v1/payments/usage",
        response_model=list[UsageEntry],
        tags=["money"],
        openapi_extra=_SECURED,
    )
    async def usage(request: Request, limit: RowLimit = USAGE_ROWS_DEFAULT) -> Response:
        """The account's charged requests, newest first."""
        record = await _caller(desk, request, auth.BILLING_READ)
        rows = await accountant.usage(record.account, limit)
        return answer([usage_entry(row) for row in rows])

    @app.get(
        "/v1/generations/{request_id}",
        response_model=Generation,
        tags=["money"],
        openapi_extra=_SECURED,
    )
    async def get_generation(request: Request, request_id: str) -> Response:
        """How one request ended and what it cost, as the ledger has it."""
        record = await _caller(desk, request, auth.BILLING_READ)
        return answer(
            generation(await accountant.generation(record.account, RequestId(request_id)))
        )


def _add_accounts(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    gate = Gate(desk.limits.accounts_per_minute, ACCOUNTS_BURST)

    @app.post(
        "/v1/accounts",
        response_model=NewAccount,
        status_code=201,
        tags=["accounts"],
        openapi_extra=json_body("AccountBody", required=False),
    )
    async def create_account(request: Request) -> Response:
        """Open an account; its management key makes keys for inference."""
        client = request.scope.get("client") or ("unknown", 0)
        gate.pass_through(str(client[0]), desk.ports.clock.monotonic_s())
        body = await read_shape(request, bodies, AccountBody)
        account, record, secret = await desk.ports.accountant.create_account(body.name)
        key = NewKey.model_validate({**key_fields(record), "key": secret})
        return answer(NewAccount(account_id=account, management_key=key), 201)


def _add_keys(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    accountant = desk.ports.accountant

    @app.post(
        "/v1/keys",
        response_model=NewKey,
        status_code=201,
        tags=["keys"],
        openapi_extra={**_SECURED, **json_body("KeyBody", required=False)},
    )
    async def create_key(request: Request) -> Response:
        """Make a key of this account. Its secret is shown this once."""
        caller = await _caller(desk, request, auth.KEYS)
        body = await read_shape(request, bodies, KeyBody)
        expires_s = None
        if body.expires_in_s is not None:
            expires_s = desk.ports.clock.now_s() + body.expires_in_s
        record, secret = await accountant.create_key(
            caller.account, body.name, frozenset(body.scopes), expires_s
        )
        return answer(NewKey.model_validate({**key_fields(record), "key": secret}), 201)

    @app.get("/v1/keys", response_model=KeyList, tags=["keys"], openapi_extra=_SECURED)
    async def list_keys(request: Request) -> Response:
        """The account's keys, without their secrets."""
        caller = await _caller(desk, request, auth.KEYS)
        records = await accountant.list_keys(caller.account)
        return answer(KeyList(data=[key_object(record) for record in records]))

    @app.delete(
        "/v1/keys/{key_id}", response_model=KeyObject, tags=["keys"], openapi_extra=_SECURED
    )
    async def revoke_key(request: Request, key_id: str) -> Response:
        """Revoke a key; every gateway refuses it within a second."""
        caller = await _caller(desk, request, auth.KEYS)
        if caller.key_id == key_id:
            raise Forbidden(
                "A key cannot revoke itself; use another management key.", None, "own_key"
            )
        return answer(key_object(await accountant.revoke_key(caller.account, KeyId(key_id))))

    @app.get("/v1/key", response_model=KeyObject, tags=["keys"], openapi_extra=_SECURED)
    async def this_key(request: Request) -> Response:
        """The key this request was made with."""
        return answer(key_object(await _caller(desk, request, None)))


def _add_health(app: FastAPI, desk: Desk) -> None:
    @app.get("/health", response_model=Health, tags=["operations"])
    async def health() -> Response:
        """The process answers."""
        return answer(Health())

    @app.get("/readyz", response_model=Readiness, tags=["operations"])
    async def ready() -> Response:
        """The market could serve a request now; 503 says why not."""
        problems = await desk.ports.readiness.problems()
        if problems:
            code = "draining" if DRAINING in problems else "not_ready"
            raise Unavailable(f"Not ready. {' '.join(problems)}", None, code, 1.0)
        return answer(Readiness())
