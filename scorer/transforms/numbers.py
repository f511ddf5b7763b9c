"""Neighbouring columns of numbers that are filled and scaled alike, done in one go: most of most specs is such.

Contract: as each column's own chain would do, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registry.transforms import Column, Impute, Scale


def is_plain(column: Column) -> bool:
    """Whether a column of numbers is filled, or centred and divided, or both in this order, or left as it is."""
    steps = list(column.steps)
    if steps and isinstance(steps[0], Impute):
        steps.pop(0)
    if steps and isinstance(steps[0], Scale) and steps[0].multiply is None and steps[0].add is None:
        steps.pop(0)
    return not steps


class NumberBlock:
    """Columns from `place` on. What isn't filled keeps NaN; x - 0 and x / 1 are x, also where x is -0.0."""

    def __init__(self, columns: Sequence[Column], inputs: Sequence[int], place: int) -> None:
        parameters = [_parameters(column) for column in columns]
        fill, subtract, divide = (np.array(each, np.float64) for each in zip(*parameters, strict=True))
        self._fill, self._subtract, self._divide = fill, subtract, divide
        self._fills = not np.isnan(fill).all()
        self._scales = bool((subtract != 0).any() or (divide != 1).any())
        self._lists = fill.tolist(), subtract.tolist(), divide.tolist()
        self._inputs = list(inputs)
        self._from = _slice_of(inputs)
        self._to = slice(place, place + len(columns))

    def row(self, values: list[float], _texts: Sequence[str], out: list[float]) -> None:
        """One row."""
        chosen = values[self._from] if self._from else [values[source] for source in self._inputs]
        if self._fills or self._scales:
            chosen = [
                ((x if x == x else fill) - subtract) / divide  # noqa: PLR0124 - NaN
                for x, fill, subtract, divide in zip(chosen, *self._lists, strict=True)
            ]
        out[self._to] = chosen

    def columns(self, dense: np.ndarray, _texts: Sequence[Sequence[str]], out: np.ndarray) -> None:
        """Many rows."""
        values = dense[:, self._from or self._inputs]
        if self._fills:
            values = np.where(np.isnan(values), self._fill, values)
        if self._scales:
            values = values - self._subtract
            values /= self._divide
        out[:, self._to] = values


def _slice_of(inputs: Sequence[int]) -> slice | None:
    """Those places as a slice; None where they don't follow each other."""
    whole = slice(inputs[0], inputs[0] + len(inputs))
    return whole if list(inputs) == list(range(whole.start, whole.stop)) else None


def _parameters(column: Column) -> tuple[float, float, float]:
    fill, subtract, divide = float("nan"), 0.0, 1.0
    for step in column.steps:
        if isinstance(step, Impute):
            fill = float(step.value)
        elif isinstance(step, Scale):
            subtract = 0.0 if step.subtract is None else step.subtract
            divide = 1.0 if step.divide is None else step.divide
    return fill, subtract, divide
