"""What the scorer asks of an engine, whichever library runs the model.

Contract: an engine turns the bytes of an artifact into a loaded model, and a loaded model turns rows into one array an
output. Both are synchronous and hold no event loop; the caller decides on which thread they run. The first use of an
engine loads its library, which takes about 0.1 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from registry.errors import InvalidFeaturesError
from registry.model import ModelSchema, Runtime


class Rows(NamedTuple):
    """What is to be scored.

    `dense`: C-contiguous array of shape (rows, features), float32 or float64, at least one row. The caller owns it; a
    model reads it only during the call. `strings`: column name to one value a row; empty for models without text.
    """

    dense: np.ndarray
    strings: Mapping[str, Sequence[str]]


class LoadedModel(Protocol):
    """A model in memory. `resident_bytes`: the engine's own estimate of what it takes; 0 if it can't tell."""

    resident_bytes: int

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """Score the rows: one float64 array an output of the schema, in its order, of shape (rows,) where the output
        has no columns and (rows, columns) where it has. The caller owns the arrays. Any thread may call it.

        Raises:
            InvalidFeaturesError: the rows don't have the columns of the model.
        """

    def close(self) -> None:
        """Free the memory. Called exactly once, when no predict runs; a predict afterwards is a bug."""


@runtime_checkable
class KeepsLock(Protocol):
    """A loaded model whose `predict` may keep the interpreter lock."""

    def predict_unlocked(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`, equal to the last bit, by calls that give up the lock: for another thread than the
        event loop's.
        """


def predict_unlocked(model: LoadedModel, rows: Rows) -> list[np.ndarray]:
    """Predict without the interpreter lock, whatever the engine does by itself."""
    return model.predict_unlocked(rows) if isinstance(model, KeepsLock) else model.predict(rows)


@runtime_checkable
class Explains(Protocol):
    """A loaded model that tells what each of its inputs adds to a score (SHAP values), if it was loaded from an
    artifact with training notes. `inputs`: their names, in order; behind transforms those that these make.
    """

    inputs: tuple[str, ...]

    def contributions(self, rows: Rows) -> np.ndarray:
        """float64 of shape (rows, raw scores, inputs + 1), which the caller owns: the last one is what every row begins
        with, and the sum is the raw score. Any thread may call it; it gives up the interpreter lock.

        Raises:
            InvalidFeaturesError: the rows don't have the columns of the model, or numbers that can't be explained.
        """


class Engine(Protocol):
    """A library that runs models of one runtime."""

    def load(self, artifact: bytes, schema: ModelSchema) -> LoadedModel:
        """Load a copy. The model keeps no reference to `artifact`.

        Raises:
            ModelUnusableError: the library refuses the artifact, or it isn't what the schema says.
        """

    def describe(self, artifact: bytes) -> ModelSchema:
        """Read from the artifact itself what goes in and what comes out.

        Raises:
            ArtifactRejectedError: the library refuses the artifact, or no output kind fits what it computes.
        """


def engine_for(runtime: Runtime) -> Engine:
    """The engine of a runtime; one object a process. Imports the engine's library at the first call."""
    if runtime is Runtime.LIGHTGBM:
        from scorer.engines.lightgbm import ENGINE as LIGHTGBM

        return LIGHTGBM
    if runtime is Runtime.XGBOOST:
        from scorer.engines.xgboost import ENGINE as XGBOOST

        return XGBOOST
    from scorer.engines.onnx import ENGINE as ONNX

    return ONNX


def check_dense(dense: np.ndarray, features: int) -> None:
    """Check that a matrix may be handed to native code that reads rows of `features` numbers.

    Raises:
        InvalidFeaturesError: it has another width, no row, or another dtype.
    """
    if dense.ndim != 2 or dense.shape[1] != features or not len(dense):
        raise InvalidFeaturesError(f"got features of shape {dense.shape}, wanted (rows, {features}) and at least 1 row")
    if dense.dtype not in (np.float32, np.float64):
        raise InvalidFeaturesError(f"got features of type {dense.dtype}, wanted float32 or float64")
