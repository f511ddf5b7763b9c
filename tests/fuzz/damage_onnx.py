"""Damage that keeps an ONNX file a valid message: its graph, its weights and its trees lie."""

from __future__ import annotations

from random import Random
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

HOSTILE = [-1, 0, 1, 2, 7, 255, 65536, 999_999, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]
_REALS = [0.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf")]
_REFUSED = ["Loop", "If", "Scan", "SequenceMap", "RandomNormal", "Unique", "TreeEnsemble", "ConvTranspose", "LSTM"]
_OTHERS = ["Add", "MatMul", "Reshape", "Gather", "Concat", "Softmax", "ArgMax", "Transpose", "Cast", "Identity"]


def _open(data: bytes) -> Any:
    return onnx.load_from_string(data)


def _attributes(model: Any) -> list[Any]:
    return [attribute for node in model.graph.node for attribute in node.attribute]


def change_attribute(data: bytes, chance: Random) -> bytes:
    model = _open(data)
    found = _attributes(model)
    if found:
        _change_attribute(chance.choice(found), chance)
    return bytes(model.SerializeToString())


def _change_attribute(attribute: Any, chance: Random) -> None:
    hostile: dict[int, list[Any]] = {
        AttributeProto.INTS: HOSTILE,
        AttributeProto.FLOATS: _REALS,
        AttributeProto.STRINGS: [b"", b"LEAF", b"BRANCH_LEQ", b"BOGUS", b"\xff"],
    }
    if attribute.type in hostile:
        values = {AttributeProto.INTS: attribute.ints, AttributeProto.FLOATS: attribute.floats}.get(
            attribute.type, attribute.strings
        )
        values[:] = _change_list(list(values), hostile[attribute.type], chance)
    elif attribute.type == AttributeProto.INT:
        attribute.i = chance.choice(HOSTILE)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = chance.choice(_REALS)
    else:
        attribute.s = chance.choice([b"", b"BOGUS", b"SOFTMAX", b"LOGISTIC", b"PROBIT", b"\xff" * 1000])


def _change_list(values: list[Any], hostile: list[Any], chance: Random) -> list[Any]:
    if not values:
        return [chance.choice(hostile)]
    one = list(values)
    one[chance.randrange(len(one))] = chance.choice([*hostile, *values[:20]])
    everywhere = [chance.choice(hostile)] * len(values)
    return chance.choice([one, one, one, everywhere, values[: len(values) // 2], values[:-1], values * 2, []])


def change_trees(data: bytes, chance: Random) -> bytes:
    """Children that make cycles or shared nodes, features and outputs out of range, another number of them."""
    model = _open(data)
    names = ("nodes_", "class_", "target_", "n_targets", "base_values")
    found = [a for a in _attributes(model) if a.name.startswith(names)]
    if not found:
        return change_attribute(data, chance)
    attribute = chance.choice(found)
    if not attribute.ints:
        _change_attribute(attribute, chance)
    else:
        place = chance.randrange(len(attribute.ints))
        near = attribute.ints[place] + chance.choice([-1, 1, 2])
        attribute.ints[place] = chance.choice([near, near, chance.choice(list(attribute.ints)), chance.choice(HOSTILE)])
    return bytes(model.SerializeToString())


def deepen_trees(data: bytes, chance: Random) -> bytes:
    """One tree that is a chain of so many nodes: 900 may be admitted."""
    depth = chance.choice([900, 1_100, 30_000])
    number = 2 * depth + 1  # even: branches, odd: the leaves beside them, the last: a leaf
    branches = range(0, 2 * depth, 2)
    modes = ["BRANCH_LEQ" if i in branches else "LEAF" for i in range(number)]
    true = [i + 1 if i in branches else 0 for i in range(number)]
    false = [i + 2 if i in branches else 0 for i in range(number)]
    leaves = [i for i in range(number) if i not in branches]
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_modes=modes,
        nodes_treeids=[0] * number, nodes_nodeids=list(range(number)), nodes_featureids=[0] * number,
        nodes_values=[float(i) for i in range(number)], nodes_truenodeids=true, nodes_falsenodeids=false,
        target_treeids=[0] * len(leaves), target_nodeids=leaves, target_ids=[0] * len(leaves),
        target_weights=[1.0] * len(leaves),
    )  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in (("x", 2), ("y", 1))
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "deep", ends[:1], ends[1:])
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def change_weights(data: bytes, chance: Random) -> bytes:
    """A weight whose dims, type or bytes do not fit one another."""
    model = _open(data)
    if not model.graph.initializer:
        return change_attribute(data, chance)
    tensor = chance.choice(list(model.graph.initializer))
    match chance.randrange(5):
        case 0:
            tensor.dims[:] = chance.choice([[2**40], [-1], [2**31, 2**31], [0], [], [1, 1], [2**62, 4], [3, 6_400_000]])
        case 1 if tensor.dims:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(HOSTILE)
        case 2:
            tensor.data_type = chance.randrange(24)
        case 3 if tensor.raw_data:
            tensor.raw_data = chance.choice([b"", tensor.raw_data[:-1], tensor.raw_data * 2])
        case _:
            del tensor.float_data[:]
            tensor.int64_data.append(chance.choice(HOSTILE))
    return bytes(model.SerializeToString())


def move_weights_outside(data: bytes, chance: Random) -> bytes:
    model = _open(data)
    tensor = model.graph.initializer.add() if chance.random() < 0.5 else _constant(model)
    tensor.name, tensor.data_type, tensor.data_location = "outside", TensorProto.FLOAT, TensorProto.EXTERNAL
    tensor.dims.append(4)
    entry = tensor.external_data.add()
    entry.key = "location"
    entry.value = chance.choice(["weights.bin", "/etc/passwd", "../../etc/passwd", "*/_ORT_MEM_ADDR_/*"])
    return bytes(model.SerializeToString())


def _constant(model: Any) -> Any:
    node = model.graph.node.add()
    node.op_type = "Constant"
    node.output.append("outside")
    attribute = node.attribute.add()
    attribute.name, attribute.type = "value", AttributeProto.TENSOR
    return attribute.t


def change_ends(data: bytes, chance: Random) -> bytes:
    """Inputs and outputs of other shapes, types or names."""
    model = _open(data)
    end = chance.choice([*model.graph.input, *model.graph.output])
    kind = end.type.tensor_type
    match chance.randrange(4):
        case 0 if kind.shape.dim:
            chance.choice(list(kind.shape.dim)).dim_value = chance.choice(HOSTILE)
        case 1:
            kind.elem_type = chance.randrange(24)
        case 2:
            end.name = chance.choice(["", "x", model.graph.node[0].output[0]])
        case _:
            kind.shape.dim.add().dim_value = chance.choice(HOSTILE)
    return bytes(model.SerializeToString())


def rewire(data: bytes, chance: Random) -> bytes:
    """A tensor that no operator makes, that an operator makes of itself, or that two make."""
    model = _open(data)
    node, other = chance.choice(list(model.graph.node)), chance.choice(list(model.graph.node))
    names = ["", "nothing", node.output[0], other.output[0], model.graph.input[0].name]
    ends = node.input if node.input and chance.random() < 0.7 else node.output
    ends[chance.randrange(len(ends))] = chance.choice(names)
    return bytes(model.SerializeToString())


def change_operator(data: bytes, chance: Random) -> bytes:
    model = _open(data)
    node = chance.choice(list(model.graph.node))
    match chance.randrange(3):
        case 0:
            node.op_type = chance.choice(_OTHERS)
            node.domain = ""
        case 1:
            node.op_type = chance.choice(_REFUSED)
        case _:
            node.domain = chance.choice(["", "ai.onnx.ml", "com.microsoft", "com.example", "ai.onnx.training"])
    return bytes(model.SerializeToString())


def change_version(data: bytes, chance: Random) -> bytes:
    model = _open(data)
    if chance.random() < 0.3:
        model.ir_version = chance.choice(HOSTILE)
    else:
        chance.choice(list(model.opset_import)).version = chance.choice([1, 5, 9, 13, 18, 21, 25, *HOSTILE])
    return bytes(model.SerializeToString())


def nest(data: bytes, chance: Random) -> bytes:
    """Subgraphs in subgraphs, deeper than protobuf's own libraries go."""
    inner = b""
    for _ in range(chance.choice([1, 20, 5_000])):
        attribute = _field(1, b"body") + _field(6, inner) + b"\xa0\x01\x05"  # name, g, type: GRAPH
        inner = _field(1, _field(4, b"Identity") + _field(5, attribute))  # a graph's node: op_type, attribute
    return data + _field(7, inner)  # merged into the model's graph


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    length, left = b"", len(data)
    while left > 0x7F:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + data


def lengthen(data: bytes, chance: Random) -> bytes:
    """Thousands of operators one after another; under the limit it may be admitted."""
    model = _open(data)
    name = model.graph.input[0].name
    for number in range(chance.choice([500, 5_000, 12_000])):
        model.graph.node.append(helper.make_node("Identity", [name], [f"chain{number}"]))
        name = f"chain{number}"
    return bytes(model.SerializeToString())


ONNX = [
    *(change_attribute, change_attribute, change_trees, change_trees, change_weights, change_weights, change_ends),
    *(rewire, change_operator, change_version, nest, lengthen, move_weights_outside, deepen_trees),
]
