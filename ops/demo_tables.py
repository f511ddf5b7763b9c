"""Tables with texts, categories and gaps to learn from: two data sets of OpenML that scikit-learn carries along.

Contract: the same rows in the same order each time; a missing number is NaN and a missing text the empty one.
"""

from __future__ import annotations

import csv
import gzip
import math
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SEED = 7
_PASSENGERS = ("pclass", "survived", "name", "sex", "age", "sibsp", "parch", "ticket", "fare", "cabin", "embarked",
               "boat", "body", "home")  # fmt: skip
_PENGUINS = ("species", "island", "bill_length", "bill_depth", "flipper_length", "mass", "sex")


class Table(NamedTuple):
    """`columns`: numbers as float, or texts, by name. `target`: one word or number a row."""

    columns: dict[str, list[Any]]
    target: NDArray[Any]

    def frame(self, rows: NDArray[np.int64] | slice = slice(None)) -> Any:
        """Some rows as a pandas table, in which a missing text is NaN, as pandas itself reads it."""
        import pandas

        frame = pandas.DataFrame({name: _or_nan(values) for name, values in self.columns.items()})
        return frame.iloc[rows].reset_index(drop=True)

    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of three quarters of the rows to learn from, and of the rest."""
        order = np.random.default_rng(_SEED).permutation(len(self.target))
        learn, held = np.split(order, [len(order) * 3 // 4])
        return learn, held


def passengers() -> Table:
    """The 1,309 passengers of the Titanic (OpenML 40945): did they survive?"""
    rows = _read("id_40945/data-v1-dl-16826755.arff.gz", _PASSENGERS)
    numbers, texts = ("pclass", "age", "sibsp", "parch", "fare"), ("name", "sex", "cabin", "embarked", "home")
    return _table(rows, numbers, texts, np.array([int(row["survived"]) for row in rows]))


def penguins() -> Table:
    """344 penguins of three species on three islands (OpenML 42585): which species?"""
    rows = _read("id_42585/data-v1-dl-21854866.arff.gz", _PENGUINS)
    return _table(rows, _PENGUINS[2:6], ("island", "sex"), np.array([row["species"] for row in rows]))


def _table(rows: list[dict[str, str]], numbers: tuple[str, ...], texts: tuple[str, ...], target: NDArray[Any]) -> Table:
    columns: dict[str, list[Any]] = {name: [float(row[name] or math.nan) for row in rows] for name in numbers}
    return Table(columns | {name: [row[name] for row in rows] for name in texts}, target)


def _read(name: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    data = files("sklearn.datasets.tests.data.openml").joinpath(name).read_bytes()
    lines = gzip.decompress(data).decode().splitlines()
    first = next(number for number, line in enumerate(lines) if line.lower().startswith("@data")) + 1
    cells = csv.reader([line for line in lines[first:] if line], escapechar="\\")
    return [dict(zip(columns, ("" if cell == "?" else cell for cell in row), strict=True)) for row in cells]


def _or_nan(values: list[Any]) -> list[Any]:
    return [math.nan if value == "" else value for value in values]
