"""How the rows of a request become the inputs of an ONNX graph.

Contract: the numeric inputs of a graph, each [N, k], are cut from the dense matrix in the order in which the graph
declares them; each text input is [N, 1] and a column of its own. Features are called as the metadata `feature_names`
says, a JSON list for all of them. Else those of a lone numeric input are x0, x1, ...; of several, an input of one
column has its own name, and one of more columns adds their numbers to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from registry.errors import ArtifactRejectedError, InvalidFeaturesError
from registry.onnx_graph import MAX_FEATURES
from scorer.engine import Rows

FLOATS: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}
STRINGS = "tensor(string)"
_WHOLE: Mapping[str, np.dtype[Any]] = {
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
}
_NUMBERS = {**FLOATS, **_WHOLE}


class Described(NamedTuple):
    """See the fields of the same name of `registry.model.ModelSchema`."""

    features: tuple[str, ...]
    string_columns: tuple[str, ...]
    dtypes: dict[str, str]


class NumericInput(NamedTuple):
    """`columns`: those of the dense matrix that it takes."""

    name: str
    dtype: np.dtype[Any]
    columns: slice


def numeric_inputs(declared: Sequence[Any]) -> list[NumericInput]:
    """The numeric ones of a session's inputs, in their order."""
    found, start = [], 0
    for one in declared:
        if one.type in _NUMBERS:
            end = start + int(one.shape[1])
            found.append(NumericInput(one.name, _NUMBERS[one.type], slice(start, end)))
            start = end
    return found


def text_inputs(declared: Sequence[Any]) -> tuple[str, ...]:
    """The names of the text ones of a session's inputs, in their order."""
    return tuple(one.name for one in declared if one.type == STRINGS)


def describe_inputs(declared: Sequence[Any], metadata: Mapping[str, str]) -> Described:
    """What a model with these inputs wants in a request.

    Raises:
        ArtifactRejectedError: an input of another type or shape, or names that aren't one for each feature.
    """
    for one in declared:
        _check(one)
    inputs, strings = numeric_inputs(declared), text_inputs(declared)
    width = inputs[-1].columns.stop if inputs else 0
    if width > MAX_FEATURES:
        raise ArtifactRejectedError(f"the model has {width} features, at most {MAX_FEATURES} are accepted")
    features = read_names(metadata, "feature_names", width) or _names(inputs)
    if len({*features, *strings}) < len(features) + len(strings):
        raise ArtifactRejectedError("two features or text columns of the model have the same name")
    return Described(features, strings, _dtypes(inputs, features))


def feed(inputs: Sequence[NumericInput], dense: np.ndarray) -> dict[str, np.ndarray]:
    """The numeric inputs of a run.

    Raises:
        InvalidFeaturesError: a whole number or a truth value is wanted where there is none.
    """
    return {one.name: _cut(one, dense) for one in inputs}


def feed_text(columns: Sequence[str], rows: Rows) -> dict[str, np.ndarray]:
    """The text inputs of a run."""
    return {column: np.array(rows.strings[column], dtype=object).reshape(-1, 1) for column in columns}


def _cut(one: NumericInput, dense: np.ndarray) -> np.ndarray:
    values = dense[:, one.columns]
    if one.dtype.kind != "f":
        limit = 2.0 if one.dtype.kind == "b" else 2.0 ** (8 * one.dtype.itemsize - 1)
        if not ((values == np.trunc(values)) & (np.abs(values) < limit)).all():  # false for NaN
            raise InvalidFeaturesError(f"input {one.name!r} of the model wants whole numbers below {limit:g}")
    if values.dtype == one.dtype:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):  # what is too great for float32 is infinite
        return np.ascontiguousarray(values, one.dtype)


def _check(one: Any) -> None:
    """Wants shape [N, k]: N free, k fixed, and 1 for a text column."""
    text = one.type == STRINGS
    if one.type not in _NUMBERS and not text:
        wanted = "float, double, int64, int32, bool and string tensors are accepted"
        raise ArtifactRejectedError(f"input {one.name!r} is a {one.type}; {wanted}")
    shape = one.shape
    if len(shape) != 2 or isinstance(shape[0], int) or not isinstance(shape[1], int) or (text and shape[1] != 1):
        wanted = "[N, 1]" if text else "[N, features]"
        raise ArtifactRejectedError(f"input {one.name!r} has shape {shape}; wanted {wanted} with N left open")


def _names(inputs: Sequence[NumericInput]) -> tuple[str, ...]:
    widths = [one.columns.stop - one.columns.start for one in inputs]
    if len(inputs) == 1:
        return tuple(f"x{i}" for i in range(widths[0]))
    return tuple(
        one.name if width == 1 else f"{one.name}{i}"
        for one, width in zip(inputs, widths, strict=True)
        for i in range(width)
    )


def _dtypes(inputs: Sequence[NumericInput], features: Sequence[str]) -> dict[str, str]:
    return {
        name: "bool" if one.dtype.kind == "b" else "int"
        for one in inputs
        if one.dtype.kind != "f"
        for name in features[one.columns]
    }


def read_names(metadata: Mapping[str, str], key: str, count: int) -> tuple[str, ...]:
    """The names in the model's metadata; empty where there are none.

    Raises:
        ArtifactRejectedError: they aren't `count` different ones.
    """
    if key not in metadata:
        return ()
    try:
        names = msgspec.json.decode(metadata[key], type=tuple[str, ...])
    except msgspec.DecodeError as error:
        raise ArtifactRejectedError(f"metadata {key} is not a JSON list of strings") from error
    if len(names) != count or len(set(names)) != count:
        raise ArtifactRejectedError(f"metadata {key} has {len(names)} names, wanted {count} different ones")
    return names
