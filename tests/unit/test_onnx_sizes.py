from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from registry.errors import ArtifactRejectedError
from registry.onnx_graph import check_onnx


def graph(*nodes: tuple[str, list[str], list[str]], **attributes: Any) -> bytes:
    """An ONNX file of (operator, inputs, outputs), with the weights `two` (the number 2) and `sizes` (2, 3)."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    weights = [
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("sizes", TensorProto.INT64, [2], [2, 3]),
    ]
    made = [helper.make_node(*node, **attributes) for node in nodes]
    return bytes(helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], weights)).SerializeToString())


SHAPE = ("Shape", ["x"], ["shape"])


@pytest.mark.parametrize(
    "artifact",
    [
        graph(("Expand", ["x", "sizes"], ["y"])),
        graph(("Mul", ["two", "two"], ["four"]), ("Tile", ["x", "four"], ["y"])),
        graph(SHAPE, ("Expand", ["x", "shape"], ["y"])),
        graph(SHAPE, ("Concat", ["shape", "two"], ["both"]), ("ConstantOfShape", ["both"], ["y"])),
        graph(
            SHAPE, ("Cast", ["shape"], ["cast"]), ("Slice", ["cast", "two"], ["end"]), ("Expand", ["x", "end"], ["y"])
        ),
        graph(SHAPE, ("Reshape", ["x", "shape"], ["y"])),
        graph(("NonZero", ["two"], ["places"]), ("Gather", ["x", "places"], ["y"])),
        graph(("Einsum", ["x"], ["y"]), equation="ij->ji"),
        graph(("Squeeze", ["x", ""], ["y"])),
    ],
)
def test_constants_and_parts_of_shapes_are_sizes(artifact: bytes) -> None:
    check_onnx(artifact)


@pytest.mark.parametrize(
    ("operator", "artifact"),
    [
        ("Expand", graph(("Cast", ["x"], ["n"]), ("Expand", ["x", "n"], ["y"]))),
        ("Range", graph(("Range", ["two", "x", "two"], ["y"]))),
        ("OneHot", graph(("OneHot", ["two", "x", "two"], ["y"]))),
        ("TopK", graph(("TopK", ["x", "x"], ["y"]))),
        ("NonZero", graph(("NonZero", ["x"], ["y"]))),
        ("Compress", graph(("Compress", ["x", "x"], ["y"]))),
        ("ReduceSum", graph(("ReduceSum", ["x", "x"], ["y"]))),
        # What is computed from a shape may be large for a number of rows that no trial meets.
        ("Expand", graph(SHAPE, ("Mod", ["shape", "two"], ["odd"]), ("Expand", ["x", "odd"], ["y"]))),
        ("Tile", graph(SHAPE, ("Mul", ["shape", "two"], ["more"]), ("Tile", ["x", "more"], ["y"]))),
        # A tensor that no operator before makes.
        ("Expand", graph(("Expand", ["x", "later"], ["y"]), ("Identity", ["two"], ["later"]))),
        # A weight and data by the same name.
        ("Expand", graph(("Cast", ["x"], ["sizes"]), ("Expand", ["x", "sizes"], ["y"]))),
    ],
)
def test_numbers_from_the_rows_are_none(operator: str, artifact: bytes) -> None:
    with pytest.raises(ArtifactRejectedError, match=f"operator {operator} takes a size from what is in the rows"):
        check_onnx(artifact)


def test_words_may_not_be_dropped() -> None:
    with pytest.raises(ArtifactRejectedError, match="StringNormalizer drops words"):
        check_onnx(graph(("StringNormalizer", ["x"], ["y"]), stopwords=["a"]))
    check_onnx(graph(("StringNormalizer", ["x"], ["y"]), case_change_action="LOWER"))
