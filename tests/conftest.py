"""Settings every suite shares."""

from __future__ import annotations

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# A deadline is a timed assertion, and machines are shared.
settings.register_profile("coster", deadline=None, print_blob=True)
settings.load_profile("coster")


class Rooms(LoadScopeScheduling):  # type: ignore[misc]
    """With several workers a file stays together, for its fixtures; and so does all that starts
    a cluster, since two at a time would wait for each other's start.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clusters" if file.startswith(("tests/chaos/", "tests/cluster/")) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Rooms:
    """How the tests are shared out, whatever `--dist` says."""
    return Rooms(config, log)
