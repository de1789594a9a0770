"""Settings every suite shares."""

from __future__ import annotations

from hypothesis import settings

# A deadline is a timed assertion, and machines are shared.
settings.register_profile("coster", deadline=None, print_blob=True)
settings.load_profile("coster")
