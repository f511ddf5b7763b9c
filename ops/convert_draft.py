"""What both converters make, and the parts of an ONNX file that they share."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ops.sample_rows import Column
from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.transforms import TransformSpec
from scorer.engine import Rows

# Old enough for every ONNX Runtime that a scorer may have; newer ones bring operators that no scorer accepts.
OPSETS = {"": 18, "ai.onnx.ml": 3}
_IR_VERSION = 8


class Draft(NamedTuple):
    """A converted model that is still to be compared. `data`: the ONNX file, or a LightGBM text. `columns`: its inputs,
    in the order of the original. `predict`: what the original library answers, float64 of shape (rows,) or (rows,
    columns). `transforms`: what is before it.
    """

    data: bytes
    columns: Sequence[Column]
    predict: Callable[[Rows], np.ndarray]
    training: dict[str, str]
    runtime: Runtime = Runtime.ONNX
    transforms: TransformSpec | None = None


def require(module: str) -> Any:
    """Import a library that only converting needs.

    Raises:
        ArtifactRejectedError: it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArtifactRejectedError(
            f"to convert this file, {module} is needed: pip install 'scoremesh[convert]'"
        ) from error


def describe_ends(features: int, outputs: int, is_classifier: bool) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of a graph, named as skl2onnx names them."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, features])]
    if not is_classifier:
        return inputs, [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, outputs])]
    return inputs, [
        helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, outputs]),
    ]


def serialize(graph: Any, features: Sequence[str], labels: Sequence[str]) -> bytes:
    """An ONNX file of a graph; the same graph always gives the same bytes."""
    from onnx import helper

    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="scoremesh")
    add_names(model, features, labels)
    return bytes(model.SerializeToString(deterministic=True))


def add_names(model: Any, features: Sequence[str], labels: Sequence[str]) -> None:
    """Write the names of features and classes into the metadata, from where scorers read them."""
    for key, names in (("feature_names", features), ("class_labels", labels)):
        if names:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, json.dumps(list(names))
