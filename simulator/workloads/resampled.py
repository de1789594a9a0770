"""Lengths of a recorded trace under arrivals that are drawn: prompts and answers as they went
together, drawn again at random.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from simulator.workloads.laws import FloatArray
from simulator.workloads.rows import Notes
from simulator.workloads.trace_files import refuse
from simulator.workloads.trace_formats import read

RESAMPLED_ROWS_MAX = 1_000_000
"""Of a trace's beginning: 16 MB."""


class Resampled:
    """`Lengths` that are read from a trace when they are first drawn."""

    def __init__(self, path: Path, form: str) -> None:
        self._path = path
        self._form = form
        self._pairs: tuple[FloatArray, FloatArray] | None = None

    def draw(self, random: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
        """So many pairs of prompt and answer, in tokens. Raises InvalidRequest for the file."""
        if self._pairs is None:
            self._pairs = self._read()
        prompts, outputs = self._pairs
        at = random.integers(len(prompts), size=count)
        return prompts[at], outputs[at]

    def _read(self) -> tuple[FloatArray, FloatArray]:
        rows = islice(read(self._path, self._form, Notes()), RESAMPLED_ROWS_MAX)
        flat = np.fromiter(
            (tokens for row in rows for tokens in (row.prompt_tokens, row.output_tokens)),
            dtype=np.float64,
        )
        if not len(flat):
            refuse(self._path, None, "has no request with a prompt and an answer.")
        return flat[0::2].copy(), flat[1::2].copy()
