"""A policy that is a function of the caller's own: checked before it runs, and listened to.

A decision leaves out a term that fails, and counts it. Who wrote the term wants to know more:
what was wrong the first time, and on which line.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any, Final

import numpy as np

from market.errors import InvalidRequest, MarketError
from market.policy.registry import ORACLE, Policy, policy_named
from market.policy.scorers import Scorer, View
from simulator.results.columns import FloatArray

NAME: Final = re.compile(r"\w[\w.\-]{0,59}")
"""What a policy may be called: folders are named after it."""

WORDS_MAX: Final = 200
"""Characters that are kept of what an exception says."""


def checked(policy: Policy) -> Policy:
    """The policy. Raises InvalidRequest where it or its name is none, or that of another policy."""
    if not isinstance(policy, Policy):
        raise InvalidRequest(
            f"A policy is a name, or a function with one: custom('mine', function), not a "
            f"{type(policy).__name__}.",
            "policy",
        )
    name = policy.name
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"A policy cannot be called {str(name)[:60]!r}: folders are named after it. Use up to "
            "60 letters, digits, '_', '.' or '-', the first a letter or a digit.",
            "policy",
        )
    try:
        taken = name == ORACLE or policy_named(name) != policy
    except MarketError:
        return policy
    if taken:
        raise InvalidRequest(
            f"The lab has a policy {name!r} of its own; call yours by another name.", "policy"
        )
    return policy


def listened(policy: Policy) -> tuple[Policy, Mapping[str, str]]:
    """The same policy, and what was wrong with each of its terms the first time; none at first."""
    heard: dict[str, str] = {}
    terms = {name: _listened(name, scorer, heard) for name, scorer in policy.scorers.items()}
    return replace(policy, scorers=terms), heard


def _listened(name: str, scorer: Scorer, heard: dict[str, str]) -> Scorer:
    def score(view: View) -> FloatArray:
        try:
            scores = scorer(view)
        except Exception as error:
            if name not in heard:
                words = f"{type(error).__name__}: {error}"[:WORDS_MAX]
                heard[name] = f"{name} raised {words}{_line_of(scorer, error)}"
            raise
        if name not in heard:
            words = _wrong_with(scores, view)
            if words:
                heard[name] = f"{name} returned {words}"
        return scores

    return score


def _line_of(scorer: Scorer, error: Exception) -> str:
    """Where it was raised, in the author's own file if that is on the way, in brackets.

    A function that could not even be called, as one of two arguments, is where it begins; one
    that is not written in Python is nowhere.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call of it, here
    code = _code_of(scorer)
    file = code.co_filename if code is not None else None
    last = next((frame for frame in reversed(frames) if frame.filename == file), None)
    if last is not None or frames:
        last = last or frames[-1]
        return f" ({Path(last.filename).name} line {last.lineno})"
    return "" if code is None else f" ({Path(code.co_filename).name} line {code.co_firstlineno})"


def _code_of(scorer: Any) -> CodeType | None:
    """What is behind a function, a method, a partial function or an object that can be called."""
    scorer = getattr(scorer, "func", scorer)
    for each in (scorer, scorer.__call__):
        code = getattr(each, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def _wrong_with(scores: Any, view: View) -> str:
    """What keeps scores from being used; nothing when they can be."""
    macs = len(view.candidates)
    try:
        values = np.asarray(scores)
    except ValueError:
        return "rows of unequal length"
    if values.shape != (macs,):
        return f"an array of shape {values.shape}; it must have one score for each of {macs} Macs"
    if values.dtype.kind not in "biuf":
        return f"values of type {values.dtype}; scores must be numbers"
    odd = values[view.eligible & ~np.isfinite(values)]
    return f"{odd[0]} for a Mac that may be chosen; scores must be finite" if len(odd) else ""
