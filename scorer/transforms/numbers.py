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


class PlainBlock:
    """Columns from `place` on. What isn't filled keeps NaN; x - 0 and x / 1 are x, also where x is -0.0."""

    def __init__(self, columns: Sequence[Column], inputs: Sequence[int], place: int) -> None:
        parameters = [_parameters(column) for column in columns]
        self._inputs = np.array(inputs)
        self._fill, self._subtract, self._divide = (
            np.array(each, np.float64) for each in zip(*parameters, strict=True)
        )
        self._row = [(source, *each) for source, each in zip(inputs, parameters, strict=True)]
        self._slice = slice(place, place + len(columns))

    def row(self, values: list[float], _texts: Sequence[str], out: list[float]) -> None:
        """One row."""
        done = []
        for source, fill, subtract, divide in self._row:
            x = values[source]
            if x != x:  # noqa: PLR0124 - NaN
                x = fill
            done.append((x - subtract) / divide)
        out[self._slice] = done

    def columns(self, dense: np.ndarray, _texts: Sequence[Sequence[str]], out: np.ndarray) -> None:
        """Many rows."""
        values = dense[:, self._inputs]
        np.copyto(values, self._fill, where=np.isnan(values))
        values -= self._subtract
        values /= self._divide
        out[:, self._slice] = values


def _parameters(column: Column) -> tuple[float, float, float]:
    fill, subtract, divide = float("nan"), 0.0, 1.0
    for step in column.steps:
        if isinstance(step, Impute):
            fill = float(step.value)
        elif isinstance(step, Scale):
            subtract = 0.0 if step.subtract is None else step.subtract
            divide = 1.0 if step.divide is None else step.divide
    return fill, subtract, divide
