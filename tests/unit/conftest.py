"""Small real models, trained once a session from the data sets that scikit-learn brings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_TREES = 12


class TrainedModel(NamedTuple):
    """`artifact`: the file. `rows`: float64 (rows, features) to score. `predict`: the library's own prediction."""

    artifact: bytes
    rows: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]


def _lightgbm(rows: np.ndarray, target: np.ndarray, **parameters: Any) -> TrainedModel:
    group = parameters.pop("group", None)
    categorical = parameters.pop("categorical", "auto")
    data = lightgbm.Dataset(rows, target, group=group, categorical_feature=categorical)
    settings = {"verbose": -1, "num_threads": 1, "num_leaves": 15, "seed": 1, **parameters}
    booster = lightgbm.train(settings, data, _TREES)
    return TrainedModel(booster.model_to_string().encode(), rows, lambda some: np.asarray(booster.predict(some)))


@pytest.fixture(scope="session")
def lightgbm_models() -> dict[str, TrainedModel]:
    """One LightGBM model of each kind of output, by objective; "categorical" has splits over categories."""
    iris, cancer, diabetes = (load(return_X_y=True) for load in (load_iris, load_breast_cancer, load_diabetes))
    with_categories = diabetes[0].copy()
    with_categories[:, 1] = np.arange(len(with_categories)) % 40
    with_categories[::9, 2] = np.nan
    grades = np.digitize(diabetes[1], [90, 140, 200])
    return {
        "binary": _lightgbm(*cancer, objective="binary"),
        "multiclass": _lightgbm(*iris, objective="multiclass", num_class=3),
        "multiclassova": _lightgbm(*iris, objective="multiclassova", num_class=3),
        "two_class_multiclass": _lightgbm(*cancer, objective="multiclass", num_class=2),
        "regression": _lightgbm(*diabetes, objective="regression"),
        "poisson": _lightgbm(*diabetes, objective="poisson"),
        "cross_entropy": _lightgbm(*cancer, objective="cross_entropy"),
        "lambdarank": _lightgbm(diabetes[0], grades, objective="lambdarank", group=[34] * 13),
        "categorical": _lightgbm(with_categories, diabetes[1], objective="regression", categorical=[1]),
        "random_forest": _lightgbm(*cancer, objective="binary", boosting="rf", bagging_fraction=0.5, bagging_freq=1),
        "one_leaf": _lightgbm(*cancer, objective="binary", min_data_in_leaf=500),
    }


def _onnx(
    estimator: Any, rows: np.ndarray, target: np.ndarray, metadata: Mapping[str, list[str]] = MappingProxyType({})
) -> bytes:
    estimator.fit(rows, target)
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
    model = to_onnx(estimator, rows[:1].astype(np.float32), options=options)
    for key, names in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(names)
    return bytes(model.SerializeToString())


def _onnx_run(artifact: bytes, output: str) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: np.asarray(session.run([output], {name: rows.astype(np.float32)})[0])


@pytest.fixture(scope="session")
def onnx_models() -> dict[str, TrainedModel]:
    """ONNX models: "classifier", "named" (with names in its metadata), "network", "regression", "multi_output"."""
    iris, cancer, diabetes = (load(return_X_y=True) for load in (load_iris, load_breast_cancer, load_diabetes))
    names = {"feature_names": ["sl", "sw", "pl", "pw"], "class_labels": ["setosa", "versicolor", "virginica"]}
    two_targets = np.stack([diabetes[1], -diabetes[1]], axis=1)
    network = make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=2000, random_state=1))
    logistic = make_pipeline(StandardScaler(), LogisticRegression())
    artifacts = {
        "classifier": (_onnx(logistic, *cancer), cancer[0], "probabilities"),
        "named": (_onnx(logistic, iris[0], iris[1], names), iris[0], "probabilities"),
        "network": (_onnx(network, *iris), iris[0], "probabilities"),
        "regression": (_onnx(LinearRegression(), *diabetes), diabetes[0], "variable"),
        "multi_output": (_onnx(LinearRegression(), diabetes[0], two_targets), diabetes[0], "variable"),
    }
    return {
        key: TrainedModel(artifact, rows, _onnx_run(artifact, output))
        for key, (artifact, rows, output) in artifacts.items()
    }
