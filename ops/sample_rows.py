"""Rows to compare two forms of a model on: read from a file, or made from what the model knows of its columns. Pure but
for `read_sample_rows`.

Contract: a table is text, cell by cell, until a model's columns say which of them are numbers, since only the model
knows whether 007 is a number. Made rows are the same for the same columns.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from registry.errors import ArtifactRejectedError
from scorer.engine import Rows

MAX_ROWS = 1000
_MADE_ROWS = 256
_MISSING_SHARE = 0.1
_SEED = 20
_WORDS = {"": math.nan, "na": math.nan, "null": math.nan, "none": math.nan, "true": 1.0, "false": 0.0}


class Column(NamedTuple):
    """What a model knows of one input column. `points`: numbers worth trying, such as the thresholds of splits.
    `texts`: values worth trying. `takes_missing`: the model was made for rows that lack it. `is_code`: its numbers
    stand for categories, so that no other numbers are made.
    """

    name: str
    is_text: bool = False
    points: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    takes_missing: bool = False
    is_code: bool = False


class SampleRows(NamedTuple):
    """A table. `names`: of its columns, empty where the file has none. `rows`: the cells as text."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def select(self, columns: Sequence[Column]) -> Rows:
        """The model's columns: by name, or by position where the table has no names.

        Raises:
            ArtifactRejectedError: a column is missing, or a cell is no number; the text says which.
        """
        places = self._places(columns)
        dense = [
            [_number(row[place], number, column.name) for column, place in places if not column.is_text]
            for number, row in enumerate(self.rows)
        ]
        strings = {column.name: [row[place] for row in self.rows] for column, place in places if column.is_text}
        return Rows(np.array(dense, dtype=np.float64).reshape(len(self.rows), -1), strings)

    def _places(self, columns: Sequence[Column]) -> list[tuple[Column, int]]:
        if not self.names:
            if len(self.rows[0]) != len(columns):
                raise ArtifactRejectedError(
                    f"the sample rows have {len(self.rows[0])} columns without names, the model has {len(columns)}"
                )
            return [(column, place) for place, column in enumerate(columns)]
        missing = [column.name for column in columns if column.name not in self.names]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ArtifactRejectedError(f"the sample rows lack {len(missing)} of the model's columns: {shown}")
        return [(column, self.names.index(column.name)) for column in columns]


def read_sample_rows(path: Path) -> SampleRows:
    """Read the first 1,000 rows of a .csv file (a first line that isn't all numbers has the names) or of a .npy matrix.

    Raises:
        ArtifactRejectedError: it can't be read, is of another kind, or has no rows.
    """
    try:
        names, rows = _read_npy(path) if path.suffix == ".npy" else _read_csv(path)
    except OSError as error:
        raise ArtifactRejectedError(f"can't read the sample rows {path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        told = f"the sample rows {path} are no .csv table and no .npy matrix of numbers"
        raise ArtifactRejectedError(told) from error
    if not rows or not rows[0]:
        raise ArtifactRejectedError(f"the sample rows {path} have no rows")
    for number, row in enumerate(rows):
        if len(row) != len(names or rows[0]):
            raise ArtifactRejectedError(
                f"row {number} of the sample rows {path} has {len(row)} cells, wanted {len(names or rows[0])}"
            )
    return SampleRows(names, rows)


def make_rows(columns: Sequence[Column]) -> Rows:
    """256 rows around the points and of the texts of the columns, the same ones each time."""
    chance = random.Random(_SEED)  # noqa: S311 - rows to try, no secret
    dense = [_numbers(column, chance) for column in columns if not column.is_text]
    strings = {column.name: chance.choices(column.texts or ("",), k=_MADE_ROWS) for column in columns if column.is_text}
    matrix = np.array(dense, dtype=np.float64).reshape(len(dense), _MADE_ROWS)
    return Rows(np.ascontiguousarray(matrix.T), strings)


def _numbers(column: Column, chance: random.Random) -> list[float]:
    """A point, a bit beside one, or far from all; without points, numbers of several magnitudes."""
    if column.points:
        spread = (max(column.points) - min(column.points)) or abs(column.points[0]) or 1.0
        centres = chance.choices(column.points, k=_MADE_ROWS)
        steps = chance.choices((0.0,) if column.is_code else (0.0, 1e-6, 1e-2, 0.3), k=_MADE_ROWS)
        numbers = [centre + chance.gauss(0, 1) * step * spread for centre, step in zip(centres, steps, strict=True)]
    else:
        numbers = [chance.gauss(0, 1) * chance.choice((0.1, 1.0, 10.0)) for _ in range(_MADE_ROWS)]
    if column.takes_missing:
        numbers = [math.nan if chance.random() < _MISSING_SHARE else number for number in numbers]
    return numbers


_Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]


def _read_npy(path: Path) -> _Table:
    matrix = np.load(path, allow_pickle=False)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise ValueError("no matrix of numbers")
    return (), tuple(tuple(map(repr, row)) for row in matrix[:MAX_ROWS].astype(np.float64).tolist())


def _read_csv(path: Path) -> _Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [tuple(row) for row in itertools.islice(csv.reader(file), MAX_ROWS + 1) if row]
    if rows and not all(_is_number(cell) for cell in rows[0]):
        return rows[0], tuple(rows[1:])
    return (), tuple(rows[:MAX_ROWS])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, row: int, column: str) -> float:
    word = cell.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return float(word)
    except ValueError as error:
        raise ArtifactRejectedError(
            f"row {row} of the sample rows has no number in column {column!r}, which is numeric in the model"
        ) from error
