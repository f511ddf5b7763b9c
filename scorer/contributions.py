"""What each input adds to a score, whatever stands between the caller's rows and the model.

Contract: behind transforms the inputs are those that the transforms make. Which class a raw score is of is told where
there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from registry.errors import NotExplainableError
from registry.model import OutputSchema
from scorer.engine import Explains, LoadedModel, Rows
from scorer.transforms import TransformedModel
from scorer.wire import doubles, field

BIAS = "bias"


class Contributions(NamedTuple):
    """Of one raw score: `values` is float64 of shape (rows, names). `label`: the class that it is of, or ""."""

    names: tuple[str, ...]
    values: np.ndarray
    label: str


def contributions_of(model: LoadedModel, rows: Rows, output: OutputSchema) -> list[Contributions]:
    """One entry a raw score of the model's output.

    Raises:
        NotExplainableError: the model's engine has no contributions.
        InvalidFeaturesError: as `Explains.contributions`, or the rows can't be transformed.
    """
    if isinstance(model, TransformedModel):
        return contributions_of(model.model, model.transform(rows), output)
    if not isinstance(model, Explains):
        raise NotExplainableError("the engine of this model has no contributions")
    values = model.contributions(rows)
    names = (*model.inputs, BIAS)
    return [
        Contributions(names, np.ascontiguousarray(values[:, place]), label)
        for place, label in enumerate(_labels(output, values.shape[1]))
    ]


def encode(found: Sequence[Contributions]) -> bytes:
    """The field `contributions` of a ScoreResponse."""
    return b"".join(map(_encode, found))


def _encode(one: Contributions) -> bytes:
    names = b"".join(field(1, name.encode()) for name in one.names)
    label = field(3, one.label.encode()) if one.label else b""
    return field(7, names + field(2, doubles(one.values)) + label)


def _labels(output: OutputSchema, count: int) -> Sequence[str]:
    return output.columns if len(output.columns) == count else [""] * count
