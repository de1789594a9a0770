"""Every route but inference, put together: models, prices, statements and health are here.

Handlers say what is asked of which port; checks of keys and shapes happen before, and
whatever goes wrong leaves through `rest`'s handlers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from market.accounting.prices import Price
from market.catalogue import ModelCard
from market.errors import Unauthenticated, Unavailable
from market.keys import BILLING_READ
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.generations import add_generations
from serve_app.landings import add_landings
from serve_app.llms import add_llms
from serve_app.openapi import describe, operation
from serve_app.ports import DRAINING
from serve_app.preparing import Preparing
from serve_app.public_figures import PublicFigures
from serve_app.rest import answer, caller, new_app
from serve_app.routes_histories import add_histories
from serve_app.routes_keys import add_accounts, add_keys
from serve_app.routes_payments import add_payments
from serve_app.routes_payouts import add_payouts
from serve_app.routes_public import add_public
from serve_app.routes_quote import add_quotes
from serve_app.schemas import (
    BalanceAnswer,
    Health,
    ModelList,
    ModelObject,
    PriceHistory,
    PriceList,
    Readiness,
)
from serve_app.views import (
    balance_answer,
    list_price,
    model_object,
    price_entry,
    price_history,
)

ModelQuery = Annotated[str, Query(min_length=1, max_length=300)]


def package_version() -> str:
    """The version of this distribution, "0" when run from a bare tree."""
    try:
        return version("coster")
    except PackageNotFoundError:
        return "0"


def build_routes(
    desk: Desk, bodies: Bodies, preparing: Preparing, figures: PublicFigures
) -> FastAPI:
    """The FastAPI app behind the hot routes."""
    app = new_app(
        "coster",
        package_version(),
        "An open market for inference on Macs, with OpenAI's API.",
    )
    _add_models(app, desk)
    _add_prices(app, desk)
    add_quotes(app, desk, bodies, preparing)
    _add_statements(app, desk)
    add_generations(app, desk)
    add_payments(app, desk, bodies)
    add_payouts(app, desk, bodies)
    add_histories(app, desk)
    add_accounts(app, desk, bodies)
    add_keys(app, desk, bodies)
    add_public(app, desk, figures)
    _add_health(app, desk)
    add_landings(app)
    add_llms(app)
    describe(app)
    return app


async def _anyone(desk: Desk, request: Request) -> None:
    """A public route needs no key; a bad one only counts against its sender."""
    if "authorization" in request.headers:
        try:
            await desk.identify(request.scope, ())
        except Unauthenticated:
            return


def _price(desk: Desk, card: ModelCard) -> Price:
    return desk.ports.accountant.prices().get(card.id) or list_price(card)


def _add_models(app: FastAPI, desk: Desk) -> None:
    catalogue, router = desk.ports.catalogue, desk.ports.router

    def listed() -> list[ModelObject]:
        states = {state.model: state for state in router.availability()}
        return [
            model_object(card, _price(desk, card), states.get(card.id))
            for card in catalogue.enabled()
        ]

    @app.get("/v1/models", response_model=ModelList, tags=["models"])
    async def list_models() -> Response:
        """All models on offer, with price and availability, from cache."""
        return answer(ModelList(data=listed()))

    @app.get("/v1/models/{model_id:path}", response_model=ModelObject, tags=["models"])
    async def get_model(model_id: str) -> Response:
        """One model; its id may contain slashes."""
        card = catalogue.get(model_id)
        states = {state.model: state for state in router.availability()}
        return answer(model_object(card, _price(desk, card), states.get(card.id)))


def _add_prices(app: FastAPI, desk: Desk) -> None:
    catalogue = desk.ports.catalogue

    @app.get("/v1/pricing", response_model=PriceList, tags=["money"])
    async def pricing() -> Response:
        """Current rates of every model, at most a second old. No key is needed."""
        rows = [price_entry(card, _price(desk, card)) for card in catalogue.enabled()]
        return answer(PriceList(models=rows))

    @app.get("/v1/pricing/history", response_model=PriceHistory, tags=["money"])
    async def history(request: Request, model: ModelQuery) -> Response:
        """Every price a model has had. A request pays the one of the moment it began."""
        await _anyone(desk, request)
        card = catalogue.get(model)
        return answer(price_history(card, await desk.ports.accountant.price_history(card.id)))


def _add_statements(app: FastAPI, desk: Desk) -> None:
    accountant = desk.ports.accountant

    @app.get(
        "/v1/payments/balance",
        response_model=BalanceAnswer,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def balance(request: Request) -> Response:
        """What the account has, can withdraw and has on hold."""
        record = await caller(desk, request, BILLING_READ)
        return answer(balance_answer(await accountant.balance(record.account)))


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
