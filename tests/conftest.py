"""Settings every suite shares."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A deadline is a timed assertion, and machines are shared.
settings.register_profile("coster", deadline=None, print_blob=True)
settings.load_profile("coster")


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers a file stays together, and so do all that start a cluster: two at a
    time would wait for each other's start, and a file's fixtures would be made on each worker.
    """
    for item in items:
        cluster = item.get_closest_marker("cluster") is not None
        group = "cluster" if cluster else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
