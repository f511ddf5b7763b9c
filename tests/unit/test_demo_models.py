"""The demo's models are real: trained, distinct, reproducible, better than a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ops.demo_data import QUERY_ROWS, DemoModel, data_set, progression_by_query, threes_first
from ops.demo_models import RECIPES, train, train_all
from ops.demo_tables import passengers, penguins
from registry.model import Runtime
from registry.transform_check import parse_spec

_BY_NAME = {str(recipe.ref): recipe for recipe in RECIPES}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoModel]:
    lines: list[str] = []
    trained = train_all(tmp_path_factory.mktemp("demo"), lines.append)
    assert len(lines) == len(trained) == len(RECIPES)
    return {str(model.ref): model for model in trained}


def test_five_tenants_each_with_distinct_artifacts(models: dict[str, DemoModel]) -> None:
    assert len({model.ref for model in models.values()}) == len(RECIPES) == 20
    assert len({model.ref.tenant for model in models.values()}) == 5
    assert len({model.path.read_bytes() for model in models.values()}) == 20


@pytest.mark.parametrize(
    ("name", "features", "columns"),
    [
        ("acme/tumour", 30, 2),
        ("acme/tumour-small", 10, 2),
        ("acme/cultivar", 13, 3),
        ("globex/progression", 10, None),
        ("umbrella/triage", 10, None),
        ("acme/tumour-linear", 30, 2),
        ("globex/digit", 64, 10),
        ("initech/progression-linear", 10, None),
        ("initech/body", 3, 3),
        ("hooli/survival", 5, 2),
        ("umbrella/penguin", 4, 3),
    ],
)
def test_shapes(models: dict[str, DemoModel], name: str, features: int, columns: int | None) -> None:
    model = models[name]
    [expected] = model.expected
    rows = len(model.rows)
    assert model.rows.shape == (rows, features)
    assert expected.shape == ((rows,) if columns is None else (rows, columns))


def test_types_and_values_by_runtime(models: dict[str, DemoModel]) -> None:
    for model in models.values():
        lightgbm = model.runtime is Runtime.LIGHTGBM
        assert model.rows.dtype == (np.float64 if lightgbm else np.float32)
        assert model.rows.flags.c_contiguous
        assert model.tolerance == (0.0 if lightgbm else 1e-6)
        assert model.path.suffix == (".txt" if lightgbm else ".onnx")
        [expected] = model.expected
        assert expected.dtype == np.float64
        assert np.isfinite(expected).all()
        assert len(np.unique(expected)) > 1, "a model that answers the same to everybody has learnt nothing"


@pytest.mark.parametrize(
    "name", ["acme/tumour-small", "umbrella/triage", "initech/iris", "initech/cultivar-forest", "hooli/survival"]
)
def test_the_same_recipe_gives_the_same_bytes(models: dict[str, DemoModel], tmp_path: Path, name: str) -> None:
    assert train(_BY_NAME[name], tmp_path).path.read_bytes() == models[name].path.read_bytes()


def test_onnx_artifacts_carry_names_and_labels(models: dict[str, DemoModel]) -> None:
    import onnx

    graph = onnx.load(models["initech/iris"].path)
    metadata = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert metadata["class_labels"] == ["setosa", "versicolor", "virginica"]
    assert metadata["feature_names"][0] == "sepal length (cm)"
    assert [output.type.WhichOneof("value") for output in graph.graph.output] == ["tensor_type", "tensor_type"]
    regression = onnx.load(models["initech/progression-linear"].path)
    assert [entry.key for entry in regression.metadata_props] == ["feature_names"]


def test_one_thread_and_another_optimisation_stay_inside_the_tolerance(models: dict[str, DemoModel]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for model in models.values():
        if model.runtime is Runtime.ONNX:
            session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
            got = session.run(None, {session.get_inputs()[0].name: model.rows})[-1].reshape(model.expected[0].shape)
            np.testing.assert_allclose(got, model.expected[0], rtol=model.tolerance, atol=model.tolerance)


@pytest.mark.parametrize(
    ("name", "data", "least"),
    [
        ("acme/tumour", "breast_cancer", 0.9),
        ("acme/tumour-linear", "breast_cancer", 0.9),
        ("acme/cultivar", "wine", 0.9),
        ("initech/iris", "iris", 0.9),
        ("globex/digit", "digits", 0.85),
        ("globex/digit-boosted", "digits", 0.85),
        ("umbrella/digit-trees", "digits", 0.9),
    ],
)
def test_classifiers_are_right_about_most_rows(
    models: dict[str, DemoModel], name: str, data: str, least: float
) -> None:
    held = data_set(data).held_target
    assert (models[name].expected[0].argmax(axis=1) == held).mean() >= least


def test_pipelines_are_right_about_most_rows(models: dict[str, DemoModel]) -> None:
    for name, table, least in (("hooli/survival", passengers(), 0.75), ("umbrella/penguin", penguins(), 0.95)):
        model, (_, held) = models[name], table.split()
        labels = np.unique(table.target)
        assert (labels[model.expected[0].argmax(axis=1)] == table.target[held]).mean() >= least
        assert model.strings_of(np.array([1])).keys() == set(parse_spec(model.transforms).string_columns)


@pytest.mark.parametrize("name", ["globex/progression", "hooli/progression-forest", "initech/progression-linear"])
def test_regressions_beat_the_mean(models: dict[str, DemoModel], name: str) -> None:
    split = data_set("diabetes")
    error = np.abs(models[name].expected[0] - split.held_target).mean()
    assert error < np.abs(split.train_target.mean() - split.held_target).mean()


def test_rankers_put_the_relevant_on_top(models: dict[str, DemoModel]) -> None:
    threes = data_set("digits").held_target == 3
    scores = models["umbrella/threes-first"].expected[0]
    assert threes[np.argsort(-scores)][: threes.sum()].mean() > 0.8
    progression: Any = data_set("diabetes").held_target
    order = np.argsort(-models["umbrella/triage"].expected[0])
    assert progression[order][:30].mean() > progression.mean() * 1.2


def test_queries_are_whole_and_graded() -> None:
    for split, grades in ((progression_by_query(), 5), (threes_first(), 2)):
        assert len(split.train_rows) == len(split.train_target)
        assert len(split.train_target) % QUERY_ROWS == 0
        assert np.unique(split.train_target).tolist() == list(range(grades))
