"""Requests as columns: what is written of each, and how all of a run are looked at at once.

A run of a million requests is never a million objects: rows are turned into columns a few
thousand at a time, and whatever is computed afterwards is computed on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.records import Ended

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]

Field = tuple[str, Callable[[Ended], Any]]
"""A column's type (int64, int32, int16, float64, bool, string; "?" may be unknown) and source."""


def _macs(ended: Ended) -> str:
    return " ".join(str(mac) for mac in ended.macs)


COLUMNS: Final[Mapping[str, Field]] = {
    "number": ("int64", attrgetter("arrival.number")),
    "at_s": ("float64", attrgetter("arrival.at_s")),
    "consumer": ("string", attrgetter("arrival.consumer")),
    "model": ("string", attrgetter("arrival.model")),
    "kind": ("string", attrgetter("arrival.kind")),
    "request_class": ("string", attrgetter("arrival.request_class")),
    "session": ("string", attrgetter("arrival.session")),
    "prompt_tokens": ("int32", attrgetter("arrival.prompt_tokens")),
    "output_tokens": ("int32", attrgetter("arrival.output_tokens")),
    "max_tokens": ("int32", attrgetter("arrival.max_tokens")),
    "prefix_blocks": ("int32", lambda e: len(e.arrival.prefix)),
    "deadline_s": ("float64?", attrgetter("arrival.deadline_s")),
    "sort": ("string", lambda e: e.arrival.preferences.sort or ""),
    "max_price_in_nano": ("int64?", attrgetter("arrival.preferences.max_price_in_nano")),
    "max_price_out_nano": ("int64?", attrgetter("arrival.preferences.max_price_out_nano")),
    "status": ("string", attrgetter("status")),
    "code": ("string", attrgetter("code")),
    "wait_s": ("float64", attrgetter("wait_s")),
    "ttft_s": ("float64?", attrgetter("ttft_s")),
    "e2e_s": ("float64?", attrgetter("e2e_s")),
    "predicted_ttft_s": ("float64?", attrgetter("predicted_ttft_s")),
    "said_tokens": ("int32", attrgetter("said_tokens")),
    "cached_tokens": ("int32", attrgetter("cached_tokens")),
    "attempts": ("int16", attrgetter("attempts")),
    "continuations": ("int16", attrgetter("continuations")),
    "hedged": ("bool", attrgetter("hedged")),
    "mac": ("int32", lambda e: e.macs[-1] if e.macs else -1),
    "macs": ("string", _macs),
    "cost_nano": ("int64", attrgetter("cost_nano")),
    "provider_nano": ("int64", attrgetter("provider_nano")),
    "fee_nano": ("int64", attrgetter("fee_nano")),
    "regret_ms": ("float64", attrgetter("regret_ms")),
}
"""In the order in which they are written. `macs` are positions in the fleet, in the order in
which they were tried; `mac` is the last, -1 without one. Times in seconds, money in nano-USD."""

MACHINE_COLUMNS: Final[Mapping[str, str]] = {
    "mac": "int32",
    "name": "string",
    "chip": "string",
    "memory_gb": "int32",
    "ask_pct": "int32",
    "here_s": "float64",
    "busy_s": "float64",
    "loading_s": "float64",
    "loads": "int32",
    "loaded_bytes": "int64",
    "jobs": "int64",
    "prompt_tokens": "int64",
    "cached_tokens": "int64",
    "completion_tokens": "int64",
    "earned_nano": "int64",
    "losses": "int32",
}
"""The fields of `MacUsed` behind the Mac's position in the fleet."""


def columns_of(rows: Sequence[Ended]) -> dict[str, list[Any]]:
    """The rows as columns."""
    return {name: list(map(source, rows)) for name, (_, source) in COLUMNS.items()}


@dataclass(frozen=True, slots=True)
class Names:
    """A column of text: each distinct one once, sorted, and per row which it is."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.int32]

    def rows_of(self, name: str) -> BoolArray:
        """Where it stands; nowhere when nobody has it."""
        if name not in self.names:
            return np.zeros(len(self.codes), dtype=np.bool_)
        rows: BoolArray = self.codes == self.names.index(name)
        return rows


class Requests:
    """All requests of a run, in the order in which they ended. What is unknown is NaN.

    `requests["ttft_s"]` is a column of numbers, `requests.text("model")` one of text.
    """

    def __init__(self, numbers: Mapping[str, AnyArray], texts: Mapping[str, Names]) -> None:
        self._numbers = numbers
        self._texts = texts

    @classmethod
    def of(cls, rows: Iterable[Ended]) -> Requests:
        """Of rows at hand; large runs are read from their file."""
        columns = columns_of(list(rows))
        numbers, texts = {}, {}
        for name, (kind, _) in COLUMNS.items():
            if kind == "string":
                names, codes = np.unique(np.asarray(columns[name], dtype=str), return_inverse=True)
                texts[name] = Names(tuple(str(n) for n in names), codes.astype(np.int32))
            elif kind.endswith("?"):
                numbers[name] = np.asarray(
                    [np.nan if v is None else v for v in columns[name]], dtype=np.float64
                )
            else:
                numbers[name] = np.asarray(columns[name], dtype=kind)
        return cls(numbers, texts)

    def __len__(self) -> int:
        return len(self._numbers["at_s"])

    def __repr__(self) -> str:
        noun = "request" if len(self) == 1 else "requests"
        return f"<{len(self):,} {noun}: {', '.join(self.columns)}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they are written."""
        return tuple(name for name in COLUMNS if name in self._numbers or name in self._texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of those that are of text."""
        return tuple(name for name in self.columns if name in self._texts)

    def __getitem__(self, name: str) -> AnyArray:
        """A column of numbers. Raises KeyError naming what there is."""
        try:
            return self._numbers[name]
        except KeyError:
            if name in self._texts:
                raise KeyError(f"{name!r} is a column of text; use text({name!r})") from None
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns)}") from None

    def text(self, name: str) -> Names:
        """A column of text. Raises KeyError naming what there is."""
        try:
            return self._texts[name]
        except KeyError:
            raise KeyError(
                f"no column of text {name!r}; there are {', '.join(self.texts)}"
            ) from None

    def where(self, rows: BoolArray) -> Requests:
        """Some of them."""
        return Requests(
            {name: values[rows] for name, values in self._numbers.items()},
            {name: Names(t.names, t.codes[rows]) for name, t in self._texts.items()},
        )

    def is_(self, column: str, name: str) -> BoolArray:
        """Rows whose text this is."""
        return self._texts[column].rows_of(name)
