"""Tables of plain values in files: CSV, JSON lines and Parquet. Knows nothing of what is in them.

Numbers are written so that reading them gives the same ones. Only Parquet needs a package, pyarrow.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

Value = str | int | float | None
Columns = Mapping[str, type]  # str, int or float
_GROUP_ROWS = 4096  # of a Parquet file that are in memory at a time


class Table(Protocol):
    """A table that is being written; `OSError` where it can't be."""

    def add(self, row: Mapping[str, Value]) -> None:
        """Write another row, with a value for each column."""

    def close(self) -> None:
        """Write what is left; nothing can be added any more. To close it again does nothing."""


class CsvTable:
    """Comma-separated values under a line of names. None is an empty field."""

    def __init__(self, path: Path, columns: Columns):
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, list(columns), lineterminator="\n")
        self._writer.writeheader()

    def add(self, row: Mapping[str, Value]) -> None:
        self._writer.writerow(row)

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path) -> Iterator[Mapping[str, Any]]:
        with path.open(encoding="utf-8", newline="") as file:
            try:
                yield from csv.DictReader(file)
            except csv.Error as error:
                raise ValueError(str(error)) from error


class JsonLinesTable:
    """A JSON object in each line. JSON has no NaN and no infinity: they are null, as None is."""

    def __init__(self, path: Path, columns: Columns):
        self._file = path.open("w", encoding="utf-8")

    def add(self, row: Mapping[str, Value]) -> None:
        values = {name: value if _is_json(value) else None for name, value in row.items()}
        self._file.write(json.dumps(values, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path) -> Iterator[Mapping[str, Any]]:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


class ParquetTable:
    """An Apache Parquet file: strings, 64-bit integers and 32-bit floats."""

    def __init__(self, path: Path, columns: Columns):
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {str: pa.string(), int: pa.int64(), float: pa.float32()}
        self._schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, self._schema)
        self._record_batch = pa.RecordBatch
        self._rows: list[Mapping[str, Value]] = []

    def add(self, row: Mapping[str, Value]) -> None:
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._write()

    def close(self) -> None:
        if not self._file.closed:
            with self._file, self._writer:
                self._write()

    def _write(self) -> None:
        if self._rows:
            self._writer.write_batch(self._record_batch.from_pylist(self._rows, self._schema))
            self._rows.clear()

    @staticmethod
    def read(path: Path) -> Iterator[Mapping[str, Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for group in file.iter_batches():
                yield from group.to_pylist()


_FORMATS: dict[str, type[CsvTable] | type[JsonLinesTable] | type[ParquetTable]] = {
    ".csv": CsvTable,
    ".jsonl": JsonLinesTable,
    ".parquet": ParquetTable,
}
SUFFIXES: Sequence[str] = tuple(_FORMATS)


def check_table(path: Path) -> None:
    """Raise `ValueError` where a table of this name can't be written, for its format."""
    if path.suffix not in _FORMATS:
        raise ValueError(f"must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got '{path}'")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError(".parquet needs the package pyarrow: pip install pyarrow")


def open_table(path: Path, suffix: str, columns: Columns) -> Table:
    """A new table at `path` in the format that `suffix` names."""
    return _FORMATS[suffix](path, columns)


def read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table; `OSError` or `ValueError` where it is none."""
    return _FORMATS[path.suffix].read(path)


def _is_json(value: Value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
