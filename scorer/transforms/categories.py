"""Neighbouring text columns that become categories alike, done in one go.

Contract: as each column's own chain would do, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from math import nan
from typing import Any, NamedTuple

import numpy as np

from registry.transforms import Column, Impute, OneHot, Ordinal, width
from scorer.transforms.shared import Held
from scorer.transforms.values import BadValueError, ordinal
from scorer.transforms.writers import REFUSED, one_hot_places


class _Source(NamedTuple):
    """Where a column's texts are, and what an empty one becomes first; "" for nothing."""

    place: int
    fill: str

    def of(self, texts: Sequence[Sequence[str]]) -> Sequence[str]:
        values, fill = texts[self.place], self.fill
        return [text or fill for text in values] if fill else values


def _source(column: Column, place: int) -> _Source:
    filled = [str(step.value) for step in column.steps if isinstance(step, Impute)]
    return _Source(place, filled[0] if filled else "")


def is_category(column: Column, kind: type[Ordinal] | type[OneHot]) -> bool:
    """Whether a text column is filled, or not, and then becomes categories of this kind, and nothing more."""
    *before, last = column.steps or (None,)
    return isinstance(last, kind) and (not before or (len(before) == 1 and isinstance(before[0], Impute)))


class OrdinalBlock:
    """Columns from `place` on."""

    def __init__(self, columns: Sequence[Column], inputs: Sequence[int], place: int, held: Held) -> None:
        self._sources = [_source(column, source) for column, source in zip(columns, inputs, strict=True)]
        steps = [column.steps[-1] for column in columns]
        self._gets = [held.places(step.categories).get for step in steps]  # type: ignore[union-attr, arg-type]
        self._ones = [ordinal(step, held) for step in steps]  # type: ignore[arg-type]  # they all are Ordinal
        self._names = [column.input for column in columns]
        self._row = [
            (*each, get, one, name)
            for each, get, one, name in zip(self._sources, self._gets, self._ones, self._names, strict=True)
        ]
        self._to = slice(place, place + len(columns))

    def row(self, _values: list[float], texts: Sequence[str], out: list[float]) -> None:
        """One row."""
        done: list[float] = []
        for source, fill, get, one, name in self._row:
            text = texts[source] or fill
            at = get(text)
            done.append(_named(one, name, text) if at is None else at)
        out[self._to] = done

    def columns(self, dense: np.ndarray, texts: Sequence[Sequence[str]], out: np.ndarray) -> None:
        """Many rows."""
        columns = [source.of(texts) for source in self._sources]
        found = _found(zip(self._gets, columns, repeat(nan)), len(columns), len(dense), np.float64)
        holes = np.isnan(found)
        if holes.any():
            for column, row in zip(*(places.tolist() for places in holes.nonzero()), strict=True):
                found[column, row] = _named(self._ones[column], self._names[column], columns[column][row])
        out[:, self._to] = found.T


class OneHotBlock:
    """Columns from `place` on."""

    def __init__(self, columns: Sequence[Column], inputs: Sequence[int], place: int, held: Held) -> None:
        self._sources = [_source(column, source) for column, source in zip(columns, inputs, strict=True)]
        self._names = [column.input for column in columns]
        found = [one_hot_places(column.steps[-1], width(column), held) for column in columns]  # type: ignore[arg-type]
        self._gets, self._others = [places.get for places, _ in found], [other for _, other in found]
        firsts = np.cumsum([place, *(width(column) for column in columns[:-1])])
        self._firsts = firsts.reshape(-1, 1)
        self._row = [
            (*each, get, other, first, name)
            for each, get, other, first, name in zip(
                self._sources, self._gets, self._others, firsts.tolist(), self._names, strict=True
            )
        ]

    def row(self, _values: list[float], texts: Sequence[str], out: list[float]) -> None:
        """One row."""
        for source, fill, get, other, first, name in self._row:
            at = get(texts[source] or fill, other)
            if at >= 0:
                out[first + at] = 1.0
            elif at == REFUSED:
                raise BadValueError("the category is unknown", name)

    def columns(self, dense: np.ndarray, texts: Sequence[Sequence[str]], out: np.ndarray) -> None:
        """Many rows."""
        columns = [source.of(texts) for source in self._sources]
        at = _found(zip(self._gets, columns, self._others, strict=True), len(columns), len(dense), np.intp)
        if REFUSED in self._others and (at == REFUSED).any():
            raise BadValueError("the category is unknown")
        hit = at >= 0
        at += self._firsts
        at += np.arange(0, out.size, out.shape[1])
        out.reshape(-1)[at[hit]] = 1.0


def _found(
    lookups: Iterable[tuple[Callable[..., Any], Sequence[str], Any]], count: int, rows: int, dtype: type
) -> np.ndarray:
    """(columns, rows) of what is found of each text, or stands for what isn't."""
    each = (map(get, column, repeat(other)) for get, column, other in lookups)
    return np.fromiter(chain.from_iterable(each), dtype, count * rows).reshape(count, rows)


def _named(one: Callable[[str], float], name: str, text: str) -> float:
    try:
        return one(text)
    except BadValueError as error:
        raise BadValueError(error.why, name) from None
