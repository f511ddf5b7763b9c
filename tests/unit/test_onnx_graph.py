from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

from registry.errors import ArtifactRejectedError
from registry.onnx_graph import check_onnx, read_class_labels
from registry.onnx_wire import read_model


@pytest.fixture(scope="module")
def forest() -> bytes:
    rows, target = load_iris(return_X_y=True)
    names = [["bird", "cat", "dog"][label] for label in target]
    trees = RandomForestClassifier(4, max_depth=4, random_state=0).fit(rows, names)
    return bytes(to_onnx(trees, rows[:1].astype("f"), options={"zipmap": False}).SerializeToString())


def changed(artifact: bytes, change: Callable[[Any], None]) -> bytes:
    model = onnx.load_from_string(artifact)
    change(model)
    return bytes(model.SerializeToString())


def attribute(model: Any, name: str) -> Any:
    return next(a for node in model.graph.node for a in node.attribute if a.name == name)


def test_converted_models_pass(onnx_models: dict[str, Any], forest: bytes) -> None:
    for artifact in (forest, *(trained.artifact for trained in onnx_models.values())):
        check_onnx(artifact)


def test_the_reader_agrees_with_the_onnx_package(onnx_models: dict[str, Any], forest: bytes) -> None:
    for artifact in (forest, *(trained.artifact for trained in onnx_models.values())):
        want = onnx.load_from_string(artifact).graph.node
        got = read_model(artifact).nodes
        assert [(n.operator, n.domain) for n in got] == [(n.op_type, n.domain) for n in want]
        for mine, theirs in zip(got, want, strict=True):
            assert {name: a.integers for name, a in mine.attributes.items()} == {
                a.name: list(a.ints) for a in theirs.attribute
            }
            assert {name: a.strings for name, a in mine.attributes.items()} == {
                a.name: [s.decode() for s in a.strings] for a in theirs.attribute
            }


def test_labels_of_the_classifier(onnx_models: dict[str, Any], forest: bytes) -> None:
    assert read_class_labels(forest) == ("bird", "cat", "dog")
    assert read_class_labels(onnx_models["classifier"].artifact) == ("0", "1")
    assert read_class_labels(onnx_models["regression"].artifact) == ()


def add_loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", [], [], body=body))


def add_subgraph(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Identity", ["x"], ["z"], body=body))


def add_operator(model: Any) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["x"], ["z"]))


def add_foreign_operator(model: Any) -> None:
    model.graph.node.append(helper.make_node("Add", ["x"], ["z"], domain="com.example"))


def add_function(model: Any) -> None:
    model.functions.append(helper.make_function("d", "f", [], [], [], []))


def add_external_weights(model: Any) -> None:
    tensor = model.graph.initializer.add()
    tensor.data_type, tensor.data_location = TensorProto.FLOAT, TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secrets"


def add_external_constant(model: Any) -> None:
    tensor = onnx.TensorProto(data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def make_cycle(model: Any) -> None:
    attribute(model, "nodes_falsenodeids").ints[0] = 0


def lose_child(model: Any) -> None:
    attribute(model, "nodes_truenodeids").ints[0] = 999


def shorten_list(model: Any) -> None:
    del attribute(model, "nodes_nodeids").ints[-1]


def repeat_node(model: Any) -> None:
    attribute(model, "nodes_nodeids").ints[1] = 0


def share_node(model: Any) -> None:
    attribute(model, "nodes_falsenodeids").ints[0] = attribute(model, "nodes_truenodeids").ints[0]


def ask_for_feature_below_zero(model: Any) -> None:
    attribute(model, "nodes_featureids").ints[0] = -1


def give_unknown_class(model: Any) -> None:
    attribute(model, "class_ids").ints[0] = 3


def weigh_no_leaf(model: Any) -> None:
    attribute(model, "class_nodeids").ints[0] = 0


def weigh_too_few(model: Any) -> None:
    del attribute(model, "class_ids").ints[-1]


def skip_many_words(model: Any) -> None:
    model.graph.node.append(helper.make_node("TfIdfVectorizer", ["x"], ["z"], max_skip_count=2**31 - 1))


def add_sparse_weights(model: Any) -> None:
    model.graph.sparse_initializer.add().dims.append(2**40)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (add_loop, "operator Loop is not accepted"),
        (add_subgraph, "Identity has a subgraph"),
        (add_operator, "operator RandomNormalLike is not accepted"),
        (add_foreign_operator, "operator com.example.Add is not accepted"),
        (add_function, "functions of its own"),
        (add_external_weights, "weights in another file"),
        (add_external_constant, "weights in another file"),
        (make_cycle, "tree 0 has a cycle"),
        (lose_child, "tree 0 has a child that does not exist"),
        (shorten_list, "differ in length"),
        (repeat_node, "a node is there twice"),
        (share_node, "a node has two parents"),
        (ask_for_feature_below_zero, "an index of a feature is out of range"),
        (give_unknown_class, "an index of a class or target is out of range"),
        (weigh_no_leaf, "a weight is not at a leaf"),
        (weigh_too_few, "lists of leaves differ in length"),
        (add_sparse_weights, "sparse weights"),
        (skip_many_words, "TfIdfVectorizer has a max_skip_count above 100"),
    ],
)
def test_what_is_not_accepted(forest: bytes, change: Callable[[Any], None], told: str) -> None:
    with pytest.raises(ArtifactRejectedError, match=told):
        check_onnx(changed(forest, change))


def test_a_name_in_disguise_does_not_hide_an_operator() -> None:
    # Behind the true op_type comes a field of the same number and another wire type, which protobuf ignores.
    node = b"\x22\x04Loop" + b"\x25Relu"
    graph = b"\x0a" + bytes([len(node)]) + node
    with pytest.raises(ArtifactRejectedError, match="operator Loop is not accepted"):
        check_onnx(b"\x3a" + bytes([len(graph)]) + graph)


def test_an_attribute_twice_is_refused(forest: bytes) -> None:
    with pytest.raises(ArtifactRejectedError, match="'nodes_modes' is there twice"):
        check_onnx(changed(forest, lambda m: m.graph.node[0].attribute.append(attribute(m, "nodes_modes"))))


@pytest.mark.parametrize("data", [b"", b"\x08\x07", b"\x0b", b"\x3a\xff", b"\xff" * 20, b"\x3a\x05ab"])
def test_what_is_no_model(data: bytes) -> None:
    with pytest.raises(ArtifactRejectedError, match=r"not an ONNX model|damaged"):
        check_onnx(data)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_are_read_or_refused(forest: bytes, seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(100):
        data = bytearray(forest)
        for _ in range(20):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            check_onnx(bytes(data))
        except ArtifactRejectedError:
            refused += 1
    assert refused > 20
