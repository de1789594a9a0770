"""An accountant's settings, out of a whole market's."""

from __future__ import annotations

from pathlib import Path

from actors.accounting.core import AccountantSettings
from actors.engines.factory import served_catalogue
from market.accounting.promos import PromoRules
from market.settings import MarketSettings


def accountant_settings(settings: MarketSettings) -> AccountantSettings:
    """What the accountant of this market needs to know."""
    return AccountantSettings(
        data=Path(settings.data_dir),
        database=settings.database,
        catalogue=served_catalogue(settings),
        fee_bps=settings.platform_fee_bps,
        promo=PromoRules(
            settings.promo_nano, settings.promo_per_fingerprint, settings.promo_day_nano
        ),
        promo_maturity_days=settings.promo_maturity_days,
        payments=settings.payments,
    )
