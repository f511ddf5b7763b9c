from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.onnx_graph import check_onnx
from scorer.engine import Engine, Rows, engine_for
from scorer.engines.onnx import MAX_ROWS_A_RUN
from scorer.memory import measure_load
from scorer.onnx_optimise import optimise

KINDS = ["classifier", "named", "network", "regression", "multi_output", "forest", "boosted"]


@pytest.fixture
def engine() -> Engine:
    return engine_for(Runtime.ONNX)


@pytest.fixture(scope="module")
def artifacts(onnx_models: dict[str, Any]) -> dict[str, tuple[bytes, np.ndarray]]:
    """Name -> (file, rows)."""
    iris, diabetes = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
    forest = RandomForestClassifier(20, random_state=0).fit(*iris)
    boosted = GradientBoostingRegressor(n_estimators=100, random_state=0).fit(*diabetes)
    trees = {
        "forest": to_onnx(forest, iris[0][:1].astype(np.float32), options={"zipmap": False}),
        "boosted": to_onnx(boosted, diabetes[0][:1].astype(np.float32)),
    }
    return {name: (model.artifact, model.rows) for name, model in onnx_models.items()} | {
        name: (model.SerializeToString(), (iris if name == "forest" else diabetes)[0]) for name, model in trees.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_plain_graph(
    engine: Engine, artifacts: dict[str, tuple[bytes, np.ndarray]], kind: str
) -> None:
    plain, rows = artifacts[kind]
    schema = engine.describe(plain)
    models = [engine.load(artifact, schema) for artifact in (plain, optimise(plain))]
    for count in (1, 2, len(rows)):
        (want,), (got,) = (model.predict(Rows(rows[:count], {})) for model in models)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    for model in models:
        model.close()


@pytest.mark.parametrize("kind", KINDS)
def test_trees_become_the_runtimes_own_format(artifacts: dict[str, tuple[bytes, np.ndarray]], kind: str) -> None:
    optimised = optimise(artifacts[kind][0])
    if kind in {"forest", "boosted"}:
        assert optimised[4:8] == b"ORTM"
    else:
        onnx.checker.check_model(onnx.load_from_string(optimised), skip_opset_compatibility_check=True)


def test_a_file_in_memory_can_be_given(artifacts: dict[str, tuple[bytes, np.ndarray]]) -> None:
    plain, _ = artifacts["network"]
    number = os.memfd_create("given")
    assert optimise(plain, number) == optimise(plain)
    assert os.fstat(number).st_size == len(optimise(plain))
    os.close(number)


def test_the_graph_gets_smaller(artifacts: dict[str, tuple[bytes, np.ndarray]]) -> None:
    plain, _ = artifacts["network"]
    nodes, left = (len(onnx.load_from_string(data).graph.node) for data in (plain, optimise(plain)))
    assert left < nodes


def test_trees_take_less_memory(engine: Engine, artifacts: dict[str, tuple[bytes, np.ndarray]]) -> None:
    plain, _ = artifacts["boosted"]
    schema, optimised = engine.describe(plain), optimise(plain)

    def taken(artifact: bytes) -> int:
        models = [engine.load(artifact, schema)]
        model, size = measure_load(lambda: engine.load(artifact, schema))
        for each in (model, *models):
            each.close()
        return size

    assert taken(optimised) < 0.5 * taken(plain)


@pytest.mark.parametrize("count", [MAX_ROWS_A_RUN - 1, MAX_ROWS_A_RUN, MAX_ROWS_A_RUN + 1, 3 * MAX_ROWS_A_RUN])
def test_many_rows_are_cut_into_runs(engine: Engine, count: int) -> None:
    """This graph answers the number of rows that it was given at once."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "real"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    artifact = model.SerializeToString()
    check_onnx(artifact)
    loaded = engine.load(artifact, engine.describe(artifact))
    (answer,) = loaded.predict(Rows(np.zeros((count, 2)), {}))
    loaded.close()
    want = [min(MAX_ROWS_A_RUN, count - row // MAX_ROWS_A_RUN * MAX_ROWS_A_RUN) for row in range(count)]
    np.testing.assert_array_equal(answer, np.stack([want, np.full(count, 2)], axis=1))


def test_a_graph_that_grows_is_refused() -> None:
    """Constants are folded; these become 16 MB."""
    weights = [helper.make_tensor("sizes", TensorProto.INT64, [2], [1 << 21, 2])]
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("Concat", ["x", "zeros"], ["y"], axis=0),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    check_onnx(model)
    with pytest.raises(ArtifactRejectedError, match="grows to"):
        optimise(model)


def test_what_the_runtime_refuses_is_refused() -> None:
    with pytest.raises(ArtifactRejectedError, match="can't optimise"):
        optimise(b"\x3a\x00")


def test_too_many_features_are_refused(engine: Engine) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2**31 - 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    with pytest.raises(ArtifactRejectedError, match="2147483647 features"):
        engine.describe(model)
