"""What a caller gets back: `Scores`. Pure, and free of protobuf, so that a caller's code never touches messages.

The records are frozen; the arrays inside belong to the caller, who may change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray


class OutputKind(StrEnum):
    """The type of an output."""

    CLASS_PROBABILITIES = "class_probabilities"
    REGRESSION = "regression"
    MULTI_OUTPUT = "multi_output"
    RANKING = "ranking"


class Residency(IntEnum):
    """Where the model was when the request came: in memory, on the scorer's disk, or in object storage only."""

    UNSPECIFIED = 0
    HIT = 1
    DISK = 2
    COLD = 3


@dataclass(frozen=True)
class Timing:
    """Microseconds inside the scorer.

    `wait_us`: waiting, for the load of the model or for the turn of a long prediction. Of the load: `queue_us` until
    its turn among others, `fetch_us`, `verify_us` for the digest, `load_us` in the engine. `score_us`: predicting.
    """

    wait_us: int
    fetch_us: int
    load_us: int
    score_us: int
    verify_us: int = 0
    queue_us: int = 0


@dataclass(frozen=True, eq=False)
class Output:
    """One output for all rows.

    `values`: float64, (rows, columns) for class probabilities and several numbers a row, else (rows,).
    `columns`: class labels or column names; empty where a row has one number.
    `order`: int64 row numbers, best first, of a ranking; else None.
    """

    kind: OutputKind
    values: NDArray[np.float64]
    columns: tuple[str, ...] = ()
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each input of a model adds to one column of its raw score (SHAP values).

    `names`: the model's inputs, behind its transforms where it has some, and last "bias", what every row begins with.
    `values`: float64, (rows, names); each row adds up to the raw score, a classifier's before it becomes a probability.
    `label`: the class that the raw score is of; "" where a model has one.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Scores:
    """The answer to one request. `version`: the version that scored, also where an alias was asked for. `served_by`: id
    of the scorer. `outputs`: by name, in the model's order. `contributions`: if they were asked for, one entry a column
    of the raw score.

    The properties below are for models with one output of a kind. They raise LookupError where the model has none of
    that kind, or several: then read `outputs` by name.
    """

    version: str
    outputs: Mapping[str, Output]
    residency: Residency
    timing: Timing
    served_by: str
    request_id: str
    contributions: tuple[Contributions, ...] = ()

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Class probabilities, (rows, classes)."""
        return self._only(OutputKind.CLASS_PROBABILITIES).values

    @property
    def labels(self) -> tuple[str, ...]:
        """The class labels, in the order of the columns of `probabilities`."""
        return self._only(OutputKind.CLASS_PROBABILITIES).columns

    @property
    def predicted_labels(self) -> list[str]:
        """The most probable class of each row; the first one of equals."""
        output = self._only(OutputKind.CLASS_PROBABILITIES)
        return [output.columns[column] for column in output.values.argmax(axis=1)]

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers of a regression, (rows,), or of a model with several numbers a row, (rows, columns)."""
        return self._only(OutputKind.REGRESSION, OutputKind.MULTI_OUTPUT).values

    @property
    def ranking(self) -> NDArray[np.int64]:
        """Row numbers of the candidates, best first, (rows,)."""
        return cast("NDArray[np.int64]", self._only(OutputKind.RANKING).order)

    def _only(self, *kinds: OutputKind) -> Output:
        found = [output for output in self.outputs.values() if output.kind in kinds]
        if len(found) == 1:
            return found[0]
        wanted = " or ".join(kind.value for kind in kinds)
        has = {name: output.kind.value for name, output in self.outputs.items()}
        raise LookupError(f"wanted one output of kind {wanted}, the answer has {has}")
