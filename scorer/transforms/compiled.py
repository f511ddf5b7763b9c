"""A transform spec, compiled: rows as callers send them become rows as the model takes them.

Contract: at most `FEW` rows are transformed one by one in plain Python, more of them column by column in numpy, which
is quicker from there on; both give the same bits for the same row. The result is float64. Neighbouring columns of
numbers that are only filled and scaled, which is most of most specs, are done in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from registry.errors import InvalidFeaturesError
from registry.transforms import Column, DateParts, OneHot, Tokens, TransformSpec, width
from scorer.engine import Rows
from scorer.transforms.numbers import PlainBlock, is_plain
from scorer.transforms.shared import SharedTables
from scorer.transforms.values import BadValueError, value_step
from scorer.transforms.writers import writer

FEW = 4
_BYTES_A_COLUMN = 1500
_NO_STRINGS: dict[str, Sequence[str]] = {}
RowPart = Callable[[list[float], Sequence[str], list[float]], None]
ColumnPart = Callable[[np.ndarray, Sequence[Sequence[str]], np.ndarray], None]
Parts = tuple[RowPart, ColumnPart]


class Transform:
    """See the module. `resident_bytes`: roughly what it takes without what it shares with others."""

    def __init__(self, spec: TransformSpec, shared: SharedTables) -> None:
        self._features = len(spec.features)
        self._string_columns = spec.string_columns
        self._row_parts: list[RowPart] = []
        self._column_parts: list[ColumnPart] = []
        self._compile(spec, shared)
        self.resident_bytes = 2000 + _BYTES_A_COLUMN * len(spec.columns)

    def _compile(self, spec: TransformSpec, shared: SharedTables) -> None:
        numbers = {name: place for place, name in enumerate(spec.features)}
        texts = {name: place for place, name in enumerate(spec.string_columns)}
        place = 0
        for plain, group in groupby(spec.columns, lambda column: column.input in numbers and is_plain(column)):
            columns = list(group)
            if plain:
                block = PlainBlock(columns, [numbers[column.input] for column in columns], place)
                parts: list[Parts] = [(block.row, block.columns)]
            else:
                parts = _chains(columns, numbers, texts, place, shared)
            for row, many in parts:
                self._row_parts.append(row)
                self._column_parts.append(many)
            place += sum(map(width, columns))
        self._zeros = [0.0] * place

    def __call__(self, rows: Rows) -> Rows:
        """Transform rows.

        Raises:
            InvalidFeaturesError: a value that can't be transformed; names its column and row.
        """
        dense = rows.dense
        if dense.ndim != 2 or dense.shape[1] != self._features or not len(dense):
            raise InvalidFeaturesError(f"got features of shape {dense.shape}, wanted (rows, {self._features})")
        strings = [rows.strings[name] for name in self._string_columns]
        if len(dense) <= FEW:
            return Rows(np.array(self._few(dense, strings), np.float64), _NO_STRINGS)
        try:
            return Rows(self._many(dense, strings), _NO_STRINGS)
        except BadValueError:
            self._few(dense, strings)  # Finds the row, and says it.
            raise

    def _few(self, dense: np.ndarray, strings: Sequence[Sequence[str]]) -> list[list[float]]:
        done = []
        for number, values in enumerate(dense.tolist()):
            out = self._zeros[:]
            texts = [column[number] for column in strings]
            try:
                for part in self._row_parts:
                    part(values, texts, out)
            except BadValueError as error:
                column, why = error.args
                raise InvalidFeaturesError(f"feature {column!r}, row {number + 1}: {why}") from error
            done.append(out)
        return done

    def _many(self, dense: np.ndarray, strings: Sequence[Sequence[str]]) -> np.ndarray:
        dense = dense.astype(np.float64, copy=False)
        out = np.zeros((len(dense), len(self._zeros)))
        with np.errstate(all="ignore"):
            for part in self._column_parts:
                part(dense, strings, out)
        return out


def compile_transform(spec: TransformSpec, shared: SharedTables) -> Transform:
    """Compile a checked spec that has no tables left out."""
    return Transform(spec, shared)


def _chains(
    columns: Sequence[Column], numbers: dict[str, int], texts: dict[str, int], place: int, shared: SharedTables
) -> list[Parts]:
    parts = []
    for column in columns:
        parts.append(_chain(column, numbers.get(column.input), texts.get(column.input, -1), place, shared))
        place += width(column)
    return parts


def _chain(column: Column, number: int | None, text: int, place: int, shared: SharedTables) -> Parts:
    """The parts of one column: its steps, one after another, and what writes the last one's outputs."""
    last = column.steps[-1] if column.steps and _is_last(column.steps[-1]) else None
    steps = [value_step(step, shared) for step in (column.steps[:-1] if last is not None else column.steps)]
    ones, manys = [step.one for step in steps], [step.many for step in steps]
    write = writer(last, place, width(column), shared)
    name = column.input

    def run_row(values: list[float], strings: Sequence[str], out: list[float]) -> None:
        value: Any = strings[text] if number is None else values[number]
        try:
            for one in ones:
                value = one(value)
            write.row(value, out)
        except BadValueError as error:
            raise BadValueError(name, *error.args) from None

    def run_columns(dense: np.ndarray, strings: Sequence[Sequence[str]], out: np.ndarray) -> None:
        values: Any = strings[text] if number is None else dense[:, number]
        for many in manys:
            values = many(values)
        write.rows(values, out)

    return run_row, run_columns


def _is_last(step: object) -> bool:
    return isinstance(step, OneHot | Tokens) or (isinstance(step, DateParts) and len(step.parts) > 1)
