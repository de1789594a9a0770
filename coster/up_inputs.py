"""What `coster up` was given, looked at before anything is started."""

from __future__ import annotations

from coster.compose import UpOptions
from coster.databases import check_books
from coster.paths import MarketPaths
from market.errors import InvalidRequest
from market.fleet_file import parse_fleet
from market.settings import MacSettings, MarketSettings

DEMO_MACS = 2


def declared_macs(paths: MarketPaths, options: UpOptions) -> tuple[MacSettings, ...]:
    """The Macs of a fleet file, or demo Macs."""
    from actors.machines import demo_macs, fleet_macs

    if options.fleet is None:
        return demo_macs(paths.data, options.macs if options.macs is not None else DEMO_MACS)
    if options.engine == "mlx":
        raise InvalidRequest(
            "--fleet describes Macs that are not this machine, so their engines cannot be mlx; "
            "add --engine simulated.",
            "fleet",
        )
    if options.macs is not None:
        raise InvalidRequest("Give --macs or --fleet, not both.", "macs")
    try:
        text = options.fleet.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{options.fleet} cannot be read: {error}.", "fleet") from error
    return fleet_macs(paths.data, parse_fleet(text, str(options.fleet)))


def models_in_words(settings: MarketSettings) -> str:
    """The first model and how many more."""
    first, more = settings.models[0].model, len(settings.models) - 1
    return f"{first} and {more} more" if more else first


def check_models(settings: MarketSettings) -> None:
    """Refuse a model folder that cannot be served before anything is started."""
    from actors.engines.factory import own_folder, served_facts

    on_offer = {source.model for source in settings.models}
    for mac in settings.macs:
        for model in mac.models:
            if model not in on_offer:
                raise InvalidRequest(
                    f"{mac.name} may load {model}, which this market does not serve; add --model "
                    f"{model}, or take it out of the fleet file.",
                    "fleet",
                )
    for source in settings.models:
        if settings.engine.kind == "mlx":
            own_folder(source)
        served_facts(source)


def check_data(paths: MarketPaths, settings: MarketSettings) -> None:
    """Refuse books that cannot be opened before anything is started."""
    from storage import database, decision_store

    check_books(paths, settings.database)
    try:
        decision_store.check(paths.data / "router.db")
    except database.StorageError as error:
        raise InvalidRequest(str(error), "data", "data_unusable") from error
