from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, OutputKind, OutputSchema, Runtime
from scorer.engine import Engine, Rows, engine_for

TENSORS = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    "int": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "half": TensorProto.FLOAT16,
}


@pytest.fixture
def engine() -> Engine:
    return engine_for(Runtime.ONNX)


def graph(
    nodes: list[Any], inputs: dict[str, tuple[str, list[Any]]], outputs: dict[str, tuple[str, list[Any]]]
) -> bytes:
    """An ONNX file of these nodes; ends are given as name -> (type, shape)."""
    ins, outs = (
        [helper.make_tensor_value_info(name, TENSORS[kind], shape) for name, (kind, shape) in side.items()]
        for side in (inputs, outputs)
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", ins, outs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


def identity(inputs: dict[str, tuple[str, list[Any]]], output: tuple[str, list[Any]]) -> bytes:
    return graph([helper.make_node("Identity", [next(iter(inputs))], ["y"])], inputs, {"y": output})


@pytest.mark.parametrize(
    ("key", "kind", "columns"),
    [
        ("classifier", OutputKind.CLASS_PROBABILITIES, ("0", "1")),
        ("named", OutputKind.CLASS_PROBABILITIES, ("setosa", "versicolor", "virginica")),
        ("network", OutputKind.CLASS_PROBABILITIES, ("0", "1", "2")),
        ("regression", OutputKind.REGRESSION, ()),
        ("multi_output", OutputKind.MULTI_OUTPUT, ("0", "1")),
    ],
)
def test_describe_and_predict(
    engine: Engine, onnx_models: dict[str, Any], key: str, kind: OutputKind, columns: tuple[str, ...]
) -> None:
    trained = onnx_models[key]
    schema = engine.describe(trained.artifact)
    name = "probabilities" if kind is OutputKind.CLASS_PROBABILITIES else "variable"
    assert schema.outputs == (OutputSchema(name, kind, columns),)
    assert len(schema.features) == trained.rows.shape[1]
    model = engine.load(trained.artifact, schema)
    want = trained.predict(trained.rows)
    want = want if columns else want.reshape(-1)
    for dtype in (np.float64, np.float32):
        for count in (1, 2, len(want)):
            (got,) = model.predict(Rows(trained.rows[:count].astype(dtype), {}))
            assert got.dtype == np.float64
            assert got.shape == want[:count].shape
            np.testing.assert_allclose(got, want[:count], rtol=1e-6, atol=1e-6)
    model.close()


def test_names_come_from_the_metadata(engine: Engine, onnx_models: dict[str, Any]) -> None:
    assert engine.describe(onnx_models["named"].artifact).features == ("sl", "sw", "pl", "pw")
    assert engine.describe(onnx_models["network"].artifact).features == ("x0", "x1", "x2", "x3")


@pytest.mark.parametrize("value", ["no json", '["a"]', '["a", "a", "b", "c"]', "[1, 2, 3, 4]"])
def test_bad_names_in_the_metadata_are_refused(engine: Engine, onnx_models: dict[str, Any], value: str) -> None:
    model = onnx.load_from_string(onnx_models["network"].artifact)
    entry = model.metadata_props.add()
    entry.key, entry.value = "feature_names", value
    with pytest.raises(ArtifactRejectedError, match="metadata feature_names"):
        engine.describe(model.SerializeToString())


def test_text_columns(engine: Engine) -> None:
    nodes = [
        helper.make_node(
            "LabelEncoder", ["city"], ["code"], domain="ai.onnx.ml",
            keys_strings=["Oslo", "Rome"], values_floats=[1.0, 2.0], default_float=-1.0,
        ),
        helper.make_node("Cast", ["code"], ["number"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["x", "number"], ["y"]),
    ]  # fmt: skip
    ends: dict[str, tuple[str, list[Any]]] = {"x": ("double", ["N", 1]), "city": ("string", ["N", 1])}
    artifact = graph(nodes, ends, {"y": ("double", ["N", 1])})
    schema = engine.describe(artifact)
    assert schema == ModelSchema(("x0",), (OutputSchema("y", OutputKind.REGRESSION),), ("city",))
    model = engine.load(artifact, schema)
    dense = np.array([[10.0], [20.0], [30.0]])
    (got,) = model.predict(Rows(dense, {"city": ["Rome", "Oslo", "Bergen"]}))
    np.testing.assert_array_equal(got, [12.0, 21.0, 29.0])
    for strings, told in (({}, "no value"), ({"city": ["Rome"]}, "1 values")):
        with pytest.raises(InvalidFeaturesError, match=f"'city' has {told}, wanted 3"):
            model.predict(Rows(dense, strings))
    model.close()


def test_numeric_inputs_of_several_types_are_columns_of_one_matrix(engine: Engine) -> None:
    nodes = [
        helper.make_node("Cast", ["age"], ["age_number"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["member"], ["member_number"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["size", "age_number", "member_number"], ["y"], axis=1),
    ]
    ends: dict[str, tuple[str, list[Any]]] = {
        "size": ("float", ["N", 2]),
        "age": ("int", ["N", 1]),
        "member": ("bool", ["N", 1]),
    }
    artifact = graph(nodes, ends, {"y": ("float", ["N", 4])})
    schema = engine.describe(artifact)
    assert schema.features == ("size0", "size1", "age", "member")
    assert schema.dtypes == {"age": "int", "member": "bool"}
    model = engine.load(artifact, schema)
    dense = np.array([[0.5, 1.5, 41.0, 1.0], [-0.5, 2.5, -3.0, 0.0]])
    (got,) = model.predict(Rows(dense, {}))
    np.testing.assert_array_equal(got, dense)
    for place, wrong in ((2, 1.5), (2, np.nan), (2, 1e300), (3, 2.0)):
        bad = dense.copy()
        bad[1, place] = wrong
        with pytest.raises(InvalidFeaturesError, match="wants whole numbers"):
            model.predict(Rows(bad, {}))
    model.close()


def test_several_outputs_keep_their_order(engine: Engine) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["best"], axes=[1], keepdims=0),
        helper.make_node("Neg", ["x"], ["negative"]),
    ]
    outputs: dict[str, tuple[str, list[Any]]] = {"best": ("float", ["N"]), "negative": ("float", ["N", 3])}
    artifact = graph(nodes, {"x": ("float", ["N", 3])}, outputs)
    schema = engine.describe(artifact)
    assert [(o.name, o.kind) for o in schema.outputs] == [
        ("best", OutputKind.REGRESSION),
        ("negative", OutputKind.MULTI_OUTPUT),
    ]
    model = engine.load(artifact, schema)
    best, negative = model.predict(Rows(np.array([[1.0, 5.0, 2.0]]), {}))
    np.testing.assert_array_equal(best, [5.0])
    np.testing.assert_array_equal(negative, [[-1.0, -5.0, -2.0]])
    model.close()


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        (identity({"x": ("float", [1, 3])}, ("float", [1, 3])), "N left open"),
        (identity({"x": ("float", ["N", "M"])}, ("float", ["N", "M"])), "N left open"),
        (identity({"x": ("float", ["N", 3, 2])}, ("float", ["N", 3, 2])), "N left open"),
        (identity({"x0": ("string", ["N", 1]), "z": ("float", ["N", 1])}, ("string", ["N", 1])), "the same name"),
        (identity({"x": ("half", ["N", 3])}, ("half", ["N", 3])), "input 'x' is a tensor"),
        (identity({"x": ("string", ["N", 1])}, ("string", ["N", 1])), "no float or double output"),
        (graph([helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)], {"x": ("float", ["N", 3])},
               {"y": ("float", [])}), "wanted \\[2\\]"),
        (b"", "ONNX Runtime can't load"),
        (b"\x08\x07garbage", "ONNX Runtime can't load"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused(engine: Engine, artifact: bytes, told: str) -> None:
    with pytest.raises(ArtifactRejectedError, match=told):
        engine.describe(artifact)


def test_a_classifier_with_zipmap_is_refused_with_advice(engine: Engine) -> None:
    rows, target = load_iris(return_X_y=True)
    model = to_onnx(LogisticRegression(max_iter=1000).fit(rows, target), rows[:1].astype(np.float32))
    with pytest.raises(ArtifactRejectedError, match="zipmap=False"):
        engine.describe(model.SerializeToString())


@pytest.mark.parametrize("width", [3, 5])
def test_rows_of_another_width_are_refused(engine: Engine, onnx_models: dict[str, Any], width: int) -> None:
    artifact = onnx_models["network"].artifact
    model = engine.load(artifact, engine.describe(artifact))
    with pytest.raises(InvalidFeaturesError, match=r"wanted \(rows, 4\)"):
        model.predict(Rows(np.zeros((2, width)), {}))
    model.close()


def test_load_refuses_garbage_and_a_schema_of_another_model(engine: Engine, onnx_models: dict[str, Any]) -> None:
    schema = engine.describe(onnx_models["network"].artifact)
    with pytest.raises(ModelUnusableError, match="ONNX Runtime can't load"):
        engine.load(b"\x08\x07garbage", schema)
    with pytest.raises(ModelUnusableError, match="not those of its schema"):
        engine.load(onnx_models["regression"].artifact, schema)
