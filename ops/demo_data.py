"""What the demo's models learn from: data sets that scikit-learn carries along, so that nothing is downloaded. Pure.

Every split is deterministic: three quarters of the rows to train on, one quarter held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.model import ModelRef, Runtime

QUERY_ROWS = 12
_TOP_RELEVANCE = 4
_SEED = 7


@dataclass(frozen=True, eq=False)
class DemoModel:
    """A trained model in a file, and what it must answer.

    `path`: the artifact. `rows`: held-out rows, (rows, features), float64 for LightGBM and float32 for ONNX.
    `expected`: one float64 array an output, (rows,) or (rows, columns), computed by the engine's own Python package
    from the artifact. `tolerance`: how far a score may be from `expected`, as `rtol` and `atol` of `numpy.allclose`;
    0.0 means bit for bit. `title`: for a person. `strings`: text columns, a text for each of the rows. `transforms`:
    JSON of what is published before the model, b"" for nothing; with it the whole pipeline computed `expected`.
    """

    ref: ModelRef
    runtime: Runtime
    path: Path
    rows: NDArray[Any]
    expected: list[NDArray[np.float64]]
    tolerance: float
    title: str
    strings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    transforms: bytes = b""

    def strings_of(self, rows: NDArray[np.int64]) -> dict[str, list[str]]:
        """The texts of some rows."""
        return {name: [texts[row] for row in rows] for name, texts in self.strings.items()}


@dataclass(frozen=True, eq=False)
class Split:
    """A data set in two parts. Rows are float64, (rows, features). Targets are class numbers, numbers to predict, or
    relevances 0-4. `labels`: names of the classes; empty where there are none.
    """

    train_rows: NDArray[np.float64]
    train_target: NDArray[Any]
    held_rows: NDArray[np.float64]
    held_target: NDArray[Any]
    features: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def first_features(self, count: int) -> Split:
        """The same rows with the first columns alone."""
        return Split(
            self.train_rows[:, :count],
            self.train_target,
            self.held_rows[:, :count],
            self.held_target,
            self.features[:count],
            self.labels,
        )


@cache
def data_set(name: str) -> Split:
    """One of breast_cancer, wine, iris, digits (classes), diabetes (one number) and linnerud (three numbers)."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    classes = () if name in {"diabetes", "linnerud"} else tuple(str(label) for label in bunch.target_names)
    return _split(bunch.data, bunch.target, tuple(str(feature) for feature in bunch.feature_names), classes)


def progression_by_query() -> Split:
    """Patients to rank by how far their diabetes goes in a year. Relevance is the quintile of that number; each
    QUERY_ROWS patients in a row are one query, in an order that has nothing to do with the target.
    """
    split = data_set("diabetes")
    edges = np.quantile(split.train_target, np.arange(1, _TOP_RELEVANCE + 1) / (_TOP_RELEVANCE + 1))
    return _in_queries(split, lambda target: np.searchsorted(edges, target))


def threes_first() -> Split:
    """Pictures of digits to rank so that those of a three come first: a three is relevant, nothing else is."""
    return _in_queries(data_set("digits"), lambda target: (target == 3).astype(np.int64))


def _in_queries(split: Split, relevance: Callable[[NDArray[Any]], NDArray[np.int64]]) -> Split:
    whole = len(split.train_target) // QUERY_ROWS * QUERY_ROWS
    target = relevance(split.train_target[:whole])
    return Split(split.train_rows[:whole], target, split.held_rows, relevance(split.held_target), split.features)


def _split(
    rows: NDArray[np.float64], target: NDArray[Any], features: tuple[str, ...], labels: tuple[str, ...]
) -> Split:
    order = np.random.default_rng(_SEED).permutation(len(rows))
    train, held = np.split(order, [len(rows) * 3 // 4])
    return Split(rows[train], target[train], rows[held], target[held], features, labels)
