"""The engines that the conformance suite holds to its contract, and real models for each: one entry an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import onnxruntime
import xgboost
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from registry.model import OutputKind, Runtime
from tests.fuzz.damage_bytes import BYTES
from tests.fuzz.damage_lightgbm import LIGHTGBM
from tests.fuzz.damage_xgboost import XGBOOST, as_either

_ROUNDS = 60
Predict = Callable[[np.ndarray], np.ndarray]


class Trained(NamedTuple):
    """`offered`: the file as its library saves it; `damaged`: the form of it that damages are made for. `rows`:
    float64. `predict`: the library's own answers, `raw`: its raw scores, None where the engine explains nothing.
    """

    offered: bytes
    rows: np.ndarray
    kind: OutputKind
    predict: Predict
    raw: Predict | None = None
    damaged: bytes = b""


class Entry(NamedTuple):
    """`models`: by what they are. `damages`: what is done to their files. `tolerance`: between our answers and the
    library's, and between a row alone and among others; 0 for none. `raw_tolerance`: between the sum of contributions
    and the raw score, as a part of the greatest one.
    """

    runtime: Runtime
    models: Callable[[], dict[str, Trained]]
    damages: Sequence[Callable[[bytes, Random], bytes]]
    tolerance: float = 0.0
    raw_tolerance: float = 0.0


def _light(data: tuple[np.ndarray, np.ndarray], kind: OutputKind, **parameters: Any) -> Trained:
    group = parameters.pop("group", None)
    settings = {"verbose": -1, "num_threads": 1, "num_leaves": 31, "seed": 1, "min_data_in_leaf": 5, **parameters}
    booster = lightgbm.train(settings, lightgbm.Dataset(*data, group=group), _ROUNDS)
    text = booster.model_to_string().encode()
    predict = lambda rows: np.asarray(booster.predict(rows, num_threads=1))  # noqa: E731
    raw = lambda rows: np.asarray(booster.predict(rows, raw_score=True, num_threads=1))  # noqa: E731
    return Trained(text, data[0], kind, predict, raw, text)


@cache
def _lightgbm_models() -> dict[str, Trained]:
    cancer, diabetes, iris, grades = _data()
    return {
        "binary": _light(cancer, OutputKind.CLASS_PROBABILITIES, objective="binary"),
        "classes": _light(iris, OutputKind.CLASS_PROBABILITIES, objective="multiclass", num_class=3),
        "number": _light(diabetes, OutputKind.REGRESSION, objective="regression"),
        "ranking": _light((diabetes[0], grades), OutputKind.RANKING, objective="lambdarank", group=[34] * 13),
    }


def _boost(data: tuple[np.ndarray, np.ndarray], kind: OutputKind, **parameters: Any) -> Trained:
    group, kinds = parameters.pop("group", None), parameters.pop("kinds", None)
    matrix = xgboost.DMatrix(*data, feature_types=kinds, enable_categorical=True)
    if group is not None:
        matrix.set_group(group)
    booster = xgboost.train({"nthread": 1, "max_depth": 5, "seed": 1, **parameters}, matrix, _ROUNDS)

    def raw(rows: np.ndarray) -> np.ndarray:
        wanted = xgboost.DMatrix(rows, feature_types=kinds, enable_categorical=True, nthread=1)
        return np.asarray(booster.predict(wanted, output_margin=True), np.float64)

    predict = lambda rows: np.asarray(booster.inplace_predict(rows), np.float32)  # noqa: E731
    saved = (bytes(booster.save_raw(form)) for form in ("ubj", "json"))
    offered, damaged = saved
    return Trained(offered, data[0], kind, predict, raw, damaged)


@cache
def _xgboost_models() -> dict[str, Trained]:
    cancer, diabetes, iris, grades = _data()
    coded = diabetes[0].copy()
    coded[:, 1] = np.arange(len(coded)) % 40
    coded[::9, 2] = np.nan
    kinds = ["c" if place == 1 else "float" for place in range(10)]
    categorical = {"kinds": kinds, "max_cat_to_onehot": 1, "objective": "reg:squarederror"}
    return {
        "binary": _boost(cancer, OutputKind.CLASS_PROBABILITIES, objective="binary:logistic"),
        "classes": _boost(iris, OutputKind.CLASS_PROBABILITIES, objective="multi:softprob", num_class=3),
        "number": _boost(diabetes, OutputKind.REGRESSION, objective="reg:squarederror"),
        "positive": _boost(diabetes, OutputKind.REGRESSION, objective="reg:tweedie"),
        "ranking": _boost((diabetes[0], grades), OutputKind.RANKING, objective="rank:ndcg", group=[34] * 13),
        "categorical": _boost((coded, diabetes[1]), OutputKind.REGRESSION, **categorical),
        "dart": _boost(diabetes, OutputKind.REGRESSION, objective="reg:squarederror", booster="dart", rate_drop=0.3),
    }


def _graph(estimator: Any, data: tuple[np.ndarray, np.ndarray], kind: OutputKind, output: str) -> Trained:
    estimator.fit(*data)
    options = {"zipmap": False} if kind is OutputKind.CLASS_PROBABILITIES else None
    data_bytes = bytes(to_onnx(estimator, data[0][:1].astype(np.float32), options=options).SerializeToString())
    session = onnxruntime.InferenceSession(data_bytes, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    predict = lambda rows: np.asarray(session.run([output], {name: rows.astype(np.float32)})[0])  # noqa: E731
    return Trained(data_bytes, data[0], kind, predict, None, data_bytes)


@cache
def _onnx_models() -> dict[str, Trained]:
    cancer, diabetes, iris, _ = _data()
    logistic = make_pipeline(StandardScaler(), LogisticRegression())
    network = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=2000, random_state=1))
    classes = OutputKind.CLASS_PROBABILITIES
    return {
        "binary": _graph(logistic, cancer, classes, "probabilities"),
        "network": _graph(network, iris, classes, "probabilities"),
        "number": _graph(LinearRegression(), diabetes, OutputKind.REGRESSION, "variable"),
    }


@cache
def _data() -> tuple[Any, Any, Any, np.ndarray]:
    cancer, diabetes, iris = (load(return_X_y=True) for load in (load_breast_cancer, load_diabetes, load_iris))
    return cancer, diabetes, iris, np.digitize(diabetes[1], [90, 140, 200])


ENTRIES = {
    Runtime.LIGHTGBM: Entry(Runtime.LIGHTGBM, _lightgbm_models, [*BYTES, *LIGHTGBM], raw_tolerance=1e-9),
    Runtime.XGBOOST: Entry(Runtime.XGBOOST, _xgboost_models, [*as_either(BYTES), *XGBOOST], raw_tolerance=1e-4),
    Runtime.ONNX: Entry(Runtime.ONNX, _onnx_models, BYTES, tolerance=1e-6),
}
