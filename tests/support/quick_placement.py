"""`coster`, whose market places models by other rules: those of a market.toml, given as JSON.

A cluster's `market.toml` may set them; `coster up` has no flags for it, and minutes of residency
are more than a test waits for. Run as `python -m tests.support.quick_placement up …`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import coster.up
from coster.main import run
from market.settings import MarketSettings, PlacementSettings

RULES = "COSTER_TEST_PLACEMENT"

_usual = coster.up.settings_for_up


def _settings(*args: Any, **options: Any) -> MarketSettings:
    rules = PlacementSettings(**json.loads(os.environ[RULES]))
    return replace(_usual(*args, **options), placement=rules)


if __name__ == "__main__":
    coster.up.settings_for_up = _settings
    run()
