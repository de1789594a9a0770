"""The policies of the lab: the market's, and one that the market could not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from market.errors import InvalidRequest
from market.policy.registry import ORACLE, POLICIES, Policy, oracle, policy_named

ORACLE_ABOUT: Final = "ours with the true lengths, lab only"


def lab_policies() -> Mapping[str, str]:
    """Every name with a line on it; `coster-TERM` comes on top."""
    return {name: policy.about for name, policy in POLICIES.items()} | {ORACLE: ORACLE_ABOUT}


def lab_policy(name: str) -> Policy:
    """A policy by its name; the oracle is told the lengths by the world it runs in.

    Raises InvalidRequest with the names that there are.
    """
    if name == ORACLE:
        return oracle({})
    if name not in POLICIES and not name.startswith("coster-"):
        raise InvalidRequest(
            f"There is no policy {name[:60]!r}; there are {', '.join(lab_policies())}, and "
            "coster-TERM for ours without one of its terms.",
            "policy",
        )
    return policy_named(name)
