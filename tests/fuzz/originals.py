"""Small real models of every shape that admission meets: what the fuzzing damages."""

from __future__ import annotations

import warnings
from typing import Any

import lightgbm
import numpy as np
import xgboost
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, Normalizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

_TREES = 6


def lightgbm_originals() -> list[bytes]:
    """Numeric, categorical with missing values, of several classes, ranking, averaged, and of single leaves."""
    iris, diabetes = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
    rows = diabetes[0].copy()
    rows[:, 1] = np.arange(len(rows)) % 40
    rows[::9, 2] = np.nan
    half = (iris[0], (iris[1] > 0).astype(int))
    grades = np.digitize(diabetes[1], [90, 140, 200])
    return [
        _train(*half, objective="binary"),
        _train(*iris, objective="multiclass", num_class=3),
        _train(rows, diabetes[1], objective="regression", categorical=[1]),
        _train(diabetes[0], grades, objective="lambdarank", group=[34] * 13),
        _train(*half, objective="binary", boosting="rf", bagging_fraction=0.5, bagging_freq=1),
        _train(*half, objective="binary", min_data_in_leaf=500),
    ]


def _train(rows: np.ndarray, target: np.ndarray, **parameters: Any) -> bytes:
    group, categorical = parameters.pop("group", None), parameters.pop("categorical", "auto")
    data = lightgbm.Dataset(rows, target, group=group, categorical_feature=categorical)
    settings = {"verbose": -1, "num_threads": 1, "num_leaves": 15, "seed": 1, **parameters}
    return bytes(lightgbm.train(settings, data, _TREES).model_to_string().encode())


def xgboost_originals() -> list[bytes]:
    """JSON: binary, of several classes, categorical with missing values, ranking, dart, and pruned with nodes left."""
    iris, diabetes = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
    rows = diabetes[0].copy()
    rows[:, 1] = np.arange(len(rows)) % 40
    rows[::9, 2] = np.nan
    half = (iris[0], (iris[1] > 0).astype(int))
    kinds = ["c" if number == 1 else "float" for number in range(10)]
    grades = np.digitize(diabetes[1], [90, 140, 200])
    return [
        _boost(*half, objective="binary:logistic"),
        _boost(*iris, objective="multi:softprob", num_class=3),
        _boost(rows, diabetes[1], kinds=kinds, objective="reg:squarederror", max_cat_to_onehot=1),
        _boost(diabetes[0], grades, group=[34] * 13, objective="rank:ndcg"),
        _boost(*diabetes, objective="reg:squarederror", booster="dart", rate_drop=0.5),
        _boost(*diabetes, objective="reg:gamma", gamma=0.05, tree_method="exact"),
    ]


def _boost(
    rows: np.ndarray,
    target: np.ndarray,
    kinds: list[str] | None = None,
    group: list[int] | None = None,
    **parameters: Any,
) -> bytes:
    data = xgboost.DMatrix(rows, target, feature_types=kinds, enable_categorical=True)
    if group is not None:
        data.set_group(group)
    settings = {"max_depth": 4, "nthread": 1, "seed": 1, **parameters}
    return bytes(xgboost.train(settings, data, _TREES).save_raw("json"))


def onnx_originals() -> list[bytes]:
    """Linear, a network, trees of both kinds, support vectors, text columns, and every other kind of operator."""
    iris, diabetes = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
    return [
        _convert(make_pipeline(StandardScaler(), LogisticRegression()), *iris),
        _convert(MLPClassifier((8,), max_iter=2000, random_state=1), *iris),
        _convert(RandomForestClassifier(4, max_depth=4, random_state=0), *iris),
        _convert(GradientBoostingRegressor(n_estimators=5, max_depth=3, random_state=0), *diabetes),
        _convert(SVC(random_state=0), *iris),
        _convert(SVR(), *diabetes),
        _convert(make_pipeline(SimpleImputer(), Normalizer(), GaussianNB()), *iris),
        _convert(make_pipeline(KBinsDiscretizer(encode="onehot-dense", quantile_method="linear"), Ridge()), *iris),
        _with_text(*iris),
        _by_hand(_TEXT_NODES, ("c", TensorProto.STRING, 1)),
        _by_hand(_NUMBER_NODES, ("x", TensorProto.FLOAT, 4)),
    ]


def _convert(estimator: Any, rows: np.ndarray, target: np.ndarray) -> bytes:
    estimator.fit(rows, target)
    options = {"zipmap": False} if is_classifier(estimator) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the converter of SVC reads what scikit-learn will drop
        return bytes(to_onnx(estimator, rows[:1].astype(np.float32), options=options).SerializeToString())


def _with_text(rows: np.ndarray, target: np.ndarray) -> bytes:
    cities = np.array(["Oslo", "Rome", "Bergen"])[np.arange(len(rows)) % 3]
    table = np.stack([rows[:, 0].astype(object), cities.astype(object)], axis=1)
    columns = ColumnTransformer([("n", StandardScaler(), [0]), ("c", OneHotEncoder(handle_unknown="ignore"), [1])])
    model = make_pipeline(columns, LogisticRegression()).fit(table, target)
    types = [("size", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    return bytes(to_onnx(model, initial_types=types, options={"zipmap": False}).SerializeToString())


def _node(operator: str, ends: str, domain: str = "", **attributes: Any) -> Any:
    """`ends`: the names of an input and of an output."""
    source, target = ends.split()
    return helper.make_node(operator, [source], [target], domain=domain, **attributes)


_ML = "ai.onnx.ml"
_TEXT_NODES = [
    _node("LabelEncoder", "c code", _ML, keys_strings=["a", "oslo"], values_int64s=[1, 2], default_int64=0),
    _node("OneHotEncoder", "code hot", _ML, cats_int64s=[0, 1, 2], zeros=1),
    _node("Cast", "bits y", to=TensorProto.FLOAT),
]
_TEXT_NODES.insert(2, helper.make_node("Reshape", ["hot", "shape"], ["bits"]))
_NUMBER_NODES = [
    _node("Scaler", "x scaled", _ML, offset=[1.0, 2.0, 3.0, 4.0], scale=[1.0, 1.0, 2.0, 2.0]),
    _node("Imputer", "scaled full", _ML, imputed_value_floats=[1.0, 2.0, 3.0, 4.0], replaced_value_float=0.0),
    _node("FeatureVectorizer", "full joined", _ML, inputdimensions=[4]),
    _node("Cast", "joined whole", to=TensorProto.INT64),
    _node(
        *("TfIdfVectorizer", "whole counts"), mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=1,
        ngram_counts=[0, 2], ngram_indexes=[0, 1, 2], pool_int64s=[0, 1, 2, 0], weights=[1.0, 2.0, 3.0],
    ),
    _node("LinearRegressor", "counts y", _ML, coefficients=[1.0] * 6, intercepts=[1.0, 2.0], targets=2),
]  # fmt: skip


def _by_hand(nodes: list[Any], source: tuple[str, int, int]) -> bytes:
    """A graph from an input (name, type, width) to "y"."""
    name, kind, width = source
    ends = [helper.make_tensor_value_info(name, kind, ["N", width])]
    answers = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])]
    weights = [helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 3])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_ML, 3)]
    graph = helper.make_graph(nodes, "by hand", ends, answers, weights)
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
