"""Whether the sizes of all tensors of an ONNX graph follow from the number of rows. Pure.

Contract: each tensor is of one of three origins. CONSTANT: computed from weights alone. SHAPE: entries of the shape of
some tensor, picked out and put together with constants, but not computed with. DATA: everything else. A number that
decides on the size of a tensor (the shape of an Expand, the k of a TopK) must be CONSTANT or SHAPE. Then no tensor's
size depends on what is in the rows, and none is larger for fewer rows: what a trial took with many rows bounds what
fewer rows take. Arithmetic with shapes is refused since it could make one number of rows, which no trial meets, large.

Not accepted at all, for the same reason: operators that keep as many entries as the rows say (NonZero and Compress over
data, StringNormalizer with words to drop).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from registry.errors import ArtifactRejectedError
from registry.onnx_wire import Node, OnnxModel


class _Origin(IntEnum):
    CONSTANT = 0
    SHAPE = 1
    DATA = 2


# Operator -> the inputs that decide on the size of its output, or on how many dimensions it has.
_SIZES: Mapping[str, tuple[int, ...]] = {
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "NonZero": (0,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    **{
        f"Reduce{what}": (1,)
        for what in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
_PICKS = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}


def check_sizes(model: OnnxModel) -> None:
    """Check a graph of accepted operators.

    Raises:
        ArtifactRejectedError: names the operator whose output may have any size.
    """
    origins = dict.fromkeys(model.weights, _Origin.CONSTANT)
    for node in model.nodes:
        _check_node(node, origins)
        origin = _origin(node, origins)
        for name in node.outputs:
            origins[name] = max(origin, origins.get(name, origin))


def _check_node(node: Node, origins: Mapping[str, _Origin]) -> None:
    for index in _SIZES.get(node.operator, ()):
        if index < len(node.inputs) and _of(node.inputs[index], origins) is _Origin.DATA:
            raise ArtifactRejectedError(
                f"the ONNX operator {node.operator} takes a size from what is in the rows, or computes it; "
                f"only constants and parts of shapes are accepted"
            )
    if "stopwords" in node.attributes:
        raise ArtifactRejectedError(f"the ONNX operator {node.operator} drops words, which is not accepted")


def _origin(node: Node, origins: Mapping[str, _Origin]) -> _Origin:
    if node.operator in {"Shape", "Size"}:
        return _Origin.SHAPE
    highest = max((_of(name, origins) for name in node.inputs), default=_Origin.CONSTANT)
    if highest is _Origin.SHAPE and node.operator not in _PICKS:
        return _Origin.DATA
    return highest


def _of(name: str, origins: Mapping[str, _Origin]) -> _Origin:
    """An input left out is constant; one that no earlier operator makes comes from the rows."""
    return origins.get(name, _Origin.DATA) if name else _Origin.CONSTANT
