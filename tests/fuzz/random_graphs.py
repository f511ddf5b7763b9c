"""ONNX graphs of accepted operators, put together at random with hostile sizes: valid messages that may even run."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

from registry.onnx_graph import ALLOWED

_WIDTH = 4
_SIZES = [-1, 0, 1, 2, 3, 4, 16, 256, 4096, 1 << 16, 1 << 20, 1 << 26, 1 << 32, 1 << 40, (1 << 63) - 1]
_SMALL = [-2, -1, 0, 1, 2, 3, 4, 16]


class _Graph:
    """A graph in the making. `floats`: names of tensors, of which the last ones are more likely used."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.floats = ["x"]

    def add(self, operator: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def sizes(self, count: int, values: list[int]) -> str:
        return self.weight(TensorProto.INT64, [count], [self.chance.choice(values) for _ in range(count)])

    def weight(self, kind: int, shape: list[int], values: list[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(helper.make_tensor(name, kind, shape, values))
        return name

    def some(self) -> str:
        return self.chance.choice(self.floats[-3:])


def _concat(graph: _Graph) -> str:
    return graph.add("Concat", [graph.some()] * graph.chance.choice([2, 2, 8]), axis=graph.chance.choice([0, 1, 1]))


def _doubling(graph: _Graph) -> str:
    name = graph.some()
    for _ in range(graph.chance.choice([4, 12, 24, 40])):
        name = graph.add("Concat", [name, name], axis=1)
    return name


def _outer(graph: _Graph) -> str:
    name = graph.some()
    turned = graph.add("Transpose", [name], perm=[1, 0])
    return graph.add("MatMul", graph.chance.choice([[name, turned], [turned, name]]))


def _expand(graph: _Graph) -> str:
    return graph.add("Expand", [graph.some(), graph.sizes(graph.chance.choice([1, 2, 3]), _SIZES)])


def _expand_by_shape(graph: _Graph) -> str:
    shape = graph.add("Shape", [graph.some()])
    return graph.add("Expand", [graph.some(), graph.add("Concat", [graph.sizes(1, _SIZES), shape], axis=0)])


def _expand_by_data(graph: _Graph) -> str:
    return graph.add("Expand", [graph.some(), graph.add("Cast", [graph.some()], to=TensorProto.INT64)])


def _tile(graph: _Graph) -> str:
    return graph.add("Tile", [graph.some(), graph.sizes(2, _SIZES)])


def _fill(graph: _Graph) -> str:
    return graph.add("ConstantOfShape", [graph.sizes(graph.chance.choice([1, 2]), _SIZES)])


def _count_up(graph: _Graph) -> str:
    numbers = [graph.weight(TensorProto.INT64, [], [graph.chance.choice([0, 1, -1, *_SIZES])]) for _ in range(3)]
    return graph.add("Cast", [graph.add("Range", numbers)], to=TensorProto.FLOAT)


def _pad(graph: _Graph) -> str:
    mode = graph.chance.choice(["constant", "edge", "reflect"])
    return graph.add("Pad", [graph.some(), graph.sizes(4, _SIZES)], mode=mode)


def _one_hot(graph: _Graph) -> str:
    depth = graph.weight(TensorProto.INT64, [], [graph.chance.choice(_SIZES)])
    return graph.add("OneHot", [graph.some(), depth, graph.weight(TensorProto.FLOAT, [2], [0.0, 1.0])])


def _reshape(graph: _Graph) -> str:
    return graph.add("Reshape", [graph.some(), graph.sizes(graph.chance.choice([1, 2, 3]), [-1, 0, 1, 2, 4, *_SIZES])])


def _slice(graph: _Graph) -> str:
    return graph.add("Slice", [graph.some(), *(graph.sizes(1, _SIZES) for _ in range(2)), graph.sizes(1, _SMALL)])


def _gather(graph: _Graph) -> str:
    operator = graph.chance.choice(["Gather", "GatherND", "GatherElements"])
    return graph.add(operator, [graph.some(), graph.weight(TensorProto.INT64, [1, 1], [graph.chance.choice(_SIZES)])])


def _pick(graph: _Graph) -> str:
    index = graph.weight(TensorProto.INT64, [1], [graph.chance.choice(_SIZES)])
    return graph.add("ArrayFeatureExtractor", [graph.some(), index], domain="ai.onnx.ml")


def _scatter(graph: _Graph) -> str:
    where = graph.weight(TensorProto.INT64, [1, 2], [graph.chance.choice(_SIZES), graph.chance.choice(_SMALL)])
    update = graph.weight(TensorProto.FLOAT, [1], [1.0])
    return graph.add("ScatterND", [graph.some(), where, update])


def _top(graph: _Graph) -> str:
    name = f"t{len(graph.nodes)}"
    graph.nodes.append(helper.make_node("TopK", [graph.some(), graph.sizes(1, _SIZES)], [name, f"{name}i"]))
    return name


def _product(graph: _Graph) -> str:
    equation = graph.chance.choice(
        ["ij,kl->ijkl", "ij,kj->ik", "ij,kl,mn->ijklmn", "ij->", "ii->i", "ab,cd->acbd", "i...->"]
    )
    return graph.add("Einsum", [graph.some()] * (equation.count(",") + 1), equation=equation)


def _convolve(graph: _Graph) -> str:
    shaped = graph.add("Unsqueeze", [graph.some(), graph.weight(TensorProto.INT64, [1], [1])])
    pads = [graph.chance.choice(_SIZES), graph.chance.choice(_SIZES)]
    if graph.chance.random() < 0.5:
        return graph.add("MaxPool", [shaped], kernel_shape=[graph.chance.choice(_SIZES)], pads=pads)
    strides, dilations = ([graph.chance.choice(_SIZES)] for _ in range(2))
    kernel = graph.weight(TensorProto.FLOAT, [1, 1, 2], [1.0, 1.0])
    return graph.add("Conv", [shaped, kernel], pads=pads, strides=strides, dilations=dilations)


def _any_operator(graph: _Graph) -> str:
    """An accepted operator with as many inputs as it wants and attributes of the right type."""
    domain = graph.chance.choice(["", "", "ai.onnx.ml"])
    operator = graph.chance.choice(sorted(ALLOWED[domain]))
    schema = onnx.defs.get_schema(operator, 17 if not domain else 3, domain) if _is_known(operator, domain) else None
    if schema is None:
        return graph.add(operator, [graph.some()], domain)
    count = graph.chance.randint(schema.min_input, min(schema.max_input, schema.min_input + 2))
    inputs = [graph.chance.choice([graph.some(), graph.some(), graph.sizes(1, _SMALL)]) for _ in range(count)]
    return graph.add(operator, inputs, domain, **_attributes(schema, graph.chance))


def _is_known(operator: str, domain: str) -> bool:
    return bool(onnx.defs.has(operator, 17 if not domain else 3, domain))


def _attributes(schema: Any, chance: Random) -> dict[str, Any]:
    makers: dict[int, Callable[[], Any]] = {
        AttributeProto.INT: lambda: chance.choice(_SMALL),
        AttributeProto.FLOAT: lambda: chance.choice([0.0, 1.0, -1.0, 1e38]),
        AttributeProto.STRING: lambda: chance.choice(["NONE", "SUM", "SOFTMAX", "RBF", "constant", "x"]),
        AttributeProto.INTS: lambda: [chance.choice([*_SMALL, 1 << 31]) for _ in range(chance.choice([1, 2, 4, 8]))],
        AttributeProto.FLOATS: lambda: [chance.choice([0.0, 1.0, -1.0]) for _ in range(chance.choice([1, 2, 4, 8]))],
        AttributeProto.STRINGS: lambda: [chance.choice(["a", "b", "LEAF"]) for _ in range(chance.choice([1, 2]))],
    }
    return {
        name: makers[int(attribute.type.value)]()
        for name, attribute in schema.attributes.items()
        if int(attribute.type.value) in makers and (attribute.required or chance.random() < 0.5)
    }


_STEPS: list[Callable[[_Graph], str]] = [
    *(_concat, _doubling, _outer, _expand, _expand_by_shape, _expand_by_data, _tile, _fill, _count_up, _pad, _one_hot),
    *(_reshape, _slice, _gather, _pick, _scatter, _top, _product, _convolve),
    *([_any_operator] * 6),
]


def random_graph(_: bytes, chance: Random) -> bytes:
    """One to four steps over an input x of shape [N, 4]; the answer depends on the last of them."""
    graph = _Graph(chance)
    for _step in range(chance.choice([1, 1, 2, 3, 4])):
        graph.floats.append(chance.choice(_STEPS)(graph))
    number = graph.add("Cast", [graph.floats[-1]], to=TensorProto.FLOAT)
    total = graph.add("ReduceMax", [number], keepdims=0)
    graph.nodes.append(helper.make_node("Add", ["x", total], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", _WIDTH]) for name in ("x", "y")]
    made = helper.make_graph(graph.nodes, "random", ends[:1], ends[1:], graph.weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())
