"""Parquet files, and the lab's only doorway to pyarrow.

Equal rows give equal bytes: row groups, encodings and compression are fixed here, and nothing
about when or where a file was written is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from market.errors import InvalidRequest
from simulator.records import Ended, MacUsed
from simulator.results.columns import (
    COLUMNS,
    MACHINE_COLUMNS,
    AnyArray,
    Names,
    Requests,
    columns_of,
)

BUFFER_ROWS: Final = 8_192
"""Rows held as objects before they become columns."""

GROUP_ROWS: Final = 65_536
"""Rows of one row group; a whole number of buffers."""

ZSTD_LEVEL: Final = 3


class RequestWriter:
    """Writes requests as they end. Used as a context; closing finishes the file."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema({name: kind for name, (kind, _) in COLUMNS.items()})
        self._writer = pq.ParquetWriter(path, self._schema, **_options(self._schema))
        self._rows: list[Ended] = []
        self._batches: list[Any] = []
        self.written = 0

    def ended(self, ended: Ended) -> None:
        """One more row."""
        self._rows.append(ended)
        if len(self._rows) >= BUFFER_ROWS:
            self._take_rows()
            if len(self._batches) * BUFFER_ROWS >= GROUP_ROWS:
                self._write_group()

    def _take_rows(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = columns_of(self._rows)
            self._batches.append(pa.RecordBatch.from_pydict(columns, schema=self._schema))
            self.written += len(self._rows)
            self._rows.clear()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._batches:
            table = pa.Table.from_batches(self._batches).combine_chunks()
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
            self._batches.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._take_rows()
            self._write_group()
        self._writer.close()


def write_machines(path: Path, macs: Sequence[MacUsed]) -> None:
    """One row per Mac, in the order of the fleet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(MACHINE_COLUMNS)
    columns: dict[str, list[Any]] = {
        name: [getattr(mac, name) for mac in macs] for name in MACHINE_COLUMNS if name != "mac"
    }
    columns["mac"] = list(range(len(macs)))
    table = pa.Table.from_pydict(columns, schema=schema)
    with pq.ParquetWriter(path, schema, **_options(schema)) as writer:
        writer.write_table(table, row_group_size=GROUP_ROWS)


def read_machines(path: Path) -> list[MacUsed]:
    """The Macs of a run, in the order of the fleet."""
    table = _table(path, MACHINE_COLUMNS)
    rows = sorted(table.to_pylist(), key=lambda row: row["mac"])
    return [
        MacUsed(**{name: row[name] for name in MACHINE_COLUMNS if name != "mac"}) for row in rows
    ]


def read_requests(path: Path) -> Requests:
    """The requests of a run. Raises InvalidRequest for a file that is none of ours."""
    table = _table(path, {name: kind for name, (kind, _) in COLUMNS.items()})
    numbers: dict[str, AnyArray] = {}
    texts: dict[str, Names] = {}
    for name, (kind, _) in COLUMNS.items():
        column = table.column(name)
        if kind == "string":
            texts[name] = _names(column)
        else:
            numbers[name] = _numbers(column, kind)
    return Requests(numbers, texts)


def _numbers(column: Any, kind: str) -> AnyArray:
    import pyarrow as pa

    if kind.endswith("?"):
        column = column.cast(pa.float64(), safe=False)
        values: AnyArray = column.to_numpy()
        return np.asarray(values, dtype=np.float64)
    return np.asarray(column.to_numpy(), dtype=kind)


def _names(column: Any) -> Names:
    whole = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if hasattr(whole, "chunks"):  # no rows at all
        chunks = whole.chunks
        whole = chunks[0] if chunks else None
    if whole is None or len(whole) == 0:
        return Names((), np.zeros(0, dtype=np.int32))
    found = np.asarray(whole.dictionary.to_pylist(), dtype=str)
    order = np.argsort(found, kind="stable")
    rank = np.empty(len(found), dtype=np.int32)
    rank[order] = np.arange(len(found), dtype=np.int32)
    return Names(tuple(str(n) for n in found[order]), rank[whole.indices.to_numpy()])


def _table(path: Path, columns: Mapping[str, str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise InvalidRequest(f"{path} cannot be read as Parquet: {error}.", "folder") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InvalidRequest(
            f"{path} has no column {', '.join(missing)}; it is not a run of this version.", "folder"
        )
    return table


def _schema(columns: Mapping[str, str]) -> Any:
    import pyarrow as pa

    types = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "int16": pa.int16(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
    }
    return pa.schema(
        [
            pa.field(name, types[kind.rstrip("?")], nullable=kind.endswith("?"))
            for name, kind in columns.items()
        ]
    )


def _options(schema: Any) -> dict[str, Any]:
    import pyarrow as pa

    texts = [field.name for field in schema if field.type == pa.string()]
    return {
        "version": "2.6",
        "data_page_version": "1.0",
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": texts,
        "write_statistics": True,
        "store_schema": False,
    }


def versions() -> dict[str, str]:
    """What wrote the files: a newer one may write other bytes for the same rows."""
    import pyarrow as pa

    return {"pyarrow": pa.__version__, "numpy": np.__version__}
