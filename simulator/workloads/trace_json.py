"""Traces as JSON lines: Mooncake's and our own, which is Mooncake's with more fields."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, get_args

from market.policy.preferences import TRUST, Sort
from market.policy.prefixes import BLOCK_TOKENS
from market.types import RequestClass
from simulator.workloads.rows import Notes
from simulator.workloads.trace_files import Lines
from simulator.workloads.trace_places import TOKENS_MAX, Place
from simulator.workloads.trace_rows import EMPTY, MOONCAKE_BLOCK_TOKENS, TraceRow

NANO_MAX = 10**12
"""A thousand dollars for a token."""


def json_rows(path: Path, text: Lines, notes: Notes) -> Iterator[TraceRow]:
    place = Place(path)
    decoder = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_each_once)
    for line in place.following(text):
        try:
            fields = decoder.decode(line)
        except _Twice as error:
            place.refuse(f"the field {str(error)[:80]} is there twice; remove one of them.")
        except (ValueError, RecursionError) as error:
            place.refuse(f"not JSON ({str(error)[:80]}); each line is one object.")
        if not isinstance(fields, dict):
            place.refuse("not a JSON object; each line is one.")
        row = _Fields(place, fields).row()
        if row.prompt_tokens and row.output_tokens:
            yield row
        else:
            notes[EMPTY] += 1


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class _Twice(ValueError):
    """A field that is told two times: which one is meant, nobody can know."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _Twice(name)
    return fields


class _Fields:
    """The fields of one JSON line. null is the same as not there."""

    def __init__(self, place: Place, fields: dict[str, Any]) -> None:
        self._place = place
        self._fields = {name: value for name, value in fields.items() if value is not None}

    def row(self) -> TraceRow:
        for name in ("timestamp", "input_length", "output_length"):
            if name not in self._fields:
                there = ", ".join(map(str, self._fields))[:200]
                self._place.refuse(f"no field {name}; there are {there or 'none'}.")
        at_s = self._milliseconds("timestamp")
        assert at_s is not None
        prompt = self._whole("input_length", TOKENS_MAX)
        output = self._whole("output_length", TOKENS_MAX)
        assert prompt is not None
        assert output is not None
        blocks = self._whole("block_tokens", TOKENS_MAX) or MOONCAKE_BLOCK_TOKENS
        if blocks % BLOCK_TOKENS and BLOCK_TOKENS % blocks:
            self._place.refuse(f"block_tokens must divide {BLOCK_TOKENS} or be a multiple of it.")
        request_class = self._one_of("class", get_args(RequestClass))
        sort = self._one_of("sort", get_args(Sort))
        return TraceRow(
            at_s=at_s,
            prompt_tokens=prompt,
            output_tokens=output,
            model=self._text("model"),
            consumer=self._text("consumer"),
            session=self._text("session"),
            request_class=request_class,  # type: ignore[arg-type]
            deadline_s=self._milliseconds("deadline_ms"),
            max_tokens=self._whole("max_tokens", TOKENS_MAX),
            max_price_in_nano=self._whole("max_price_in_nano", NANO_MAX),
            max_price_out_nano=self._whole("max_price_out_nano", NANO_MAX),
            sort=sort,  # type: ignore[arg-type]
            trust=self._one_of("trust", TRUST),
            cached_tokens=self._whole("cached_tokens", TOKENS_MAX),
            prefix=self._hashes("hash_ids"),
            answer=self._hashes("answer_hash_ids"),
            block_tokens=blocks,
            line=self._place.line,
        )

    def _milliseconds(self, name: str) -> float | None:
        if name not in self._fields:
            return None
        return self._place.time(self._number(name), 1e-3, name)

    def _number(self, name: str) -> float:
        value = self._fields[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._place.refuse(f"{name} must be a number, not {repr(value)[:40]}.")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self._place.refuse(f"{name} is too large.")
        return number

    def _whole(self, name: str, highest: int) -> int | None:
        if name not in self._fields:
            return None
        number = self._number(name)
        if not 0 <= number <= highest or not number.is_integer():
            self._place.refuse(f"{name} must be a whole number from 0 to {highest}.")
        return int(number)

    def _text(self, name: str) -> str:
        value = self._fields.get(name, "")
        if not isinstance(value, str):
            self._place.refuse(f"{name} must be text, not {repr(value)[:40]}.")
        return self._place.text(value, name)

    def _one_of(self, name: str, names: tuple[str, ...]) -> str | None:
        value = self._fields.get(name)
        if value is not None and value not in names:
            self._place.refuse(f"{name} must be one of {', '.join(names)}.")
        return value

    def _hashes(self, name: str) -> tuple[int, ...]:
        """Numbers of 64 bits, signed as the market has them."""
        values = self._fields.get(name, [])
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            self._place.refuse(f"{name} must be a list of whole numbers.")
        if any(not -(2**63) <= value < 2**64 for value in values):
            self._place.refuse(f"{name} must be numbers of 64 bits.")
        return tuple(value - 2**64 if value >= 2**63 else value for value in values)
