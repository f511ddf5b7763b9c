"""A transform spec, compiled: rows as callers send them become rows as the model takes them.

Contract: at most `FEW` rows are transformed one by one in plain Python, more of them column by column in numpy, which
is quicker from there on; both give the same bits for the same row. The result is float64. Neighbouring columns that
are alike, and of the common kinds, are done in one go. A spec that gives more than `WIDE` numbers a row, as one with a
vocabulary does, is always done in numpy: most of them are zeros that plain Python would copy one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from registry.errors import InvalidFeaturesError
from registry.transforms import Column, DateParts, OneHot, Ordinal, Tokens, TransformSpec, width
from scorer.engine import Rows
from scorer.transforms.categories import OneHotBlock, OrdinalBlock, is_category
from scorer.transforms.numbers import NumberBlock, is_plain
from scorer.transforms.shared import Held, SharedTables
from scorer.transforms.values import BadValueError, value_step
from scorer.transforms.writers import writer

FEW = 4
WIDE = 400
_BYTES = 2000
_BYTES_A_COLUMN = 1500
_NO_STRINGS: Mapping[str, Sequence[str]] = {}


class Part(Protocol):
    """Makes some of the outputs, of one row or of many. `out` has zeros in their places."""

    def row(self, values: list[float], texts: Sequence[str], out: list[float]) -> None: ...

    def columns(self, dense: np.ndarray, texts: Sequence[Sequence[str]], out: np.ndarray) -> None: ...


class Transform:
    """See the module. `resident_bytes`: roughly what it brought into memory: itself, and the tables that nobody held
    before.
    """

    def __init__(self, spec: TransformSpec, shared: SharedTables) -> None:
        self._held = Held(shared)
        self._features = len(spec.features)
        self._string_columns = spec.string_columns
        parts = list(_parts(spec, self._held))
        self._row_parts, self._column_parts = [part.row for part in parts], [part.columns for part in parts]
        self._width = sum(map(width, spec.columns))
        self._few = FEW if self._width <= WIDE else 0
        self.resident_bytes = _BYTES + _BYTES_A_COLUMN * len(spec.columns) + self._held.added_bytes

    def __call__(self, rows: Rows) -> Rows:
        """Transform rows.

        Raises:
            InvalidFeaturesError: a value that can't be transformed; names its column and row.
        """
        dense = rows.dense
        if dense.ndim != 2 or dense.shape[1] != self._features or not len(dense):
            raise InvalidFeaturesError(f"got features of shape {dense.shape}, wanted (rows, {self._features})")
        strings = [rows.strings[name] for name in self._string_columns]
        if len(dense) <= self._few:
            return Rows(self._one_by_one(dense, strings), _NO_STRINGS)
        try:
            return Rows(self._together(dense, strings), _NO_STRINGS)
        except BadValueError:
            self._one_by_one(dense, strings)  # Finds the row, and says it.
            raise

    def _one_by_one(self, dense: np.ndarray, strings: Sequence[Sequence[str]]) -> np.ndarray:
        done: list[float] = []
        for number, values in enumerate(dense.tolist()):
            out = [0.0] * self._width
            texts = [column[number] for column in strings]
            try:
                for part in self._row_parts:
                    part(values, texts, out)
            except BadValueError as error:
                raise InvalidFeaturesError(f"feature {error.column!r}, row {number + 1}: {error.why}") from error
            done += out
        return np.fromiter(done, np.float64, len(done)).reshape(len(dense), -1)

    def _together(self, dense: np.ndarray, strings: Sequence[Sequence[str]]) -> np.ndarray:
        dense = dense.astype(np.float64, copy=False)
        out = np.zeros((len(dense), self._width))
        with np.errstate(all="ignore"):
            for part in self._column_parts:
                part(dense, strings, out)
        return out


def compile_transform(spec: TransformSpec, shared: SharedTables) -> Transform:
    """Compile a checked spec that has no tables left out."""
    return Transform(spec, shared)


def _parts(spec: TransformSpec, held: Held) -> Iterator[Part]:
    numbers = {name: place for place, name in enumerate(spec.features)}
    texts = {name: place for place, name in enumerate(spec.string_columns)}
    place = 0
    for block, group in groupby(spec.columns, lambda column: _block(column, is_text=column.input in texts)):
        columns = list(group)
        inputs = [texts[column.input] if column.input in texts else numbers[column.input] for column in columns]
        if block is NumberBlock:
            yield NumberBlock(columns, inputs, place)
        elif block is not None:
            yield block(columns, inputs, place, held)
        for column, source in zip(columns, inputs, strict=True):
            if block is None:
                yield Chain(column, source, column.input in texts, place, held)
            place += width(column)


def _block(column: Column, *, is_text: bool) -> Any:
    """The class that does such columns in one go, None for none."""
    if not is_text:
        return NumberBlock if is_plain(column) else None
    if is_category(column, Ordinal):
        return OrdinalBlock
    return OneHotBlock if is_category(column, OneHot) else None


class Chain:
    """One column: its steps, one after another, and what writes the last one's outputs."""

    def __init__(self, column: Column, source: int, is_text: bool, place: int, held: Held) -> None:
        last = column.steps[-1] if column.steps and _is_last(column.steps[-1]) else None
        steps = [value_step(step, held) for step in (column.steps[:-1] if last is not None else column.steps)]
        self._ones, self._manys = [step.one for step in steps], [step.many for step in steps]
        self._write = writer(last, place, width(column), held)
        self._name, self._source, self._is_text = column.input, source, is_text

    def row(self, values: list[float], texts: Sequence[str], out: list[float]) -> None:
        """One row."""
        value: Any = texts[self._source] if self._is_text else values[self._source]
        try:
            for one in self._ones:
                value = one(value)
            self._write.row(value, out)
        except BadValueError as error:
            raise BadValueError(error.why, self._name) from None

    def columns(self, dense: np.ndarray, texts: Sequence[Sequence[str]], out: np.ndarray) -> None:
        """Many rows."""
        values: Any = texts[self._source] if self._is_text else dense[:, self._source]
        for many in self._manys:
            values = many(values)
        self._write.rows(values, out)


def _is_last(step: object) -> bool:
    return isinstance(step, OneHot | Tokens) or (isinstance(step, DateParts) and len(step.parts) > 1)
