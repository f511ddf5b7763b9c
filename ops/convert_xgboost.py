"""XGBoost models become ONNX: the trees are copied node by node out of XGBoost's own JSON.

Contract: the graph is one TreeEnsembleRegressor that sums the leaves, and the function that XGBoost applies to the
sum. Splits are the same to the last bit: both sides compare float32 numbers by `<`, and a missing value goes to the
side that XGBoost learned; only the order of the float32 sums differs. A file that XGBClassifier or XGBRegressor saved
answers with its best iteration, as they do; a Booster's file answers with all of its trees, as it does.

JSON: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html (the schema is at its end). Operators:
https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ops.convert_draft import Draft, describe_ends, require, serialize
from ops.sample_rows import Column
from registry.errors import ArtifactRejectedError
from scorer.engine import Rows

_IDENTITY = {
    "reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror",
    "binary:logitraw", "rank:pairwise", "rank:ndcg", "rank:map",
}  # fmt: skip
_EXPONENT = {"count:poisson", "reg:gamma", "reg:tweedie", "survival:cox"}
_LOGISTIC = {"binary:logistic", "reg:logistic"}
_SOFTMAX = {"multi:softprob", "multi:softmax"}
_MAX_POINTS = 64


class Forest(NamedTuple):
    """A booster's own JSON, as far as it matters. `bases`: added to the sum of the leaves, one number an output.
    `targets`: the output that each tree adds to. `weights`: of each tree.
    """

    trees: list[dict[str, Any]]
    targets: list[int]
    weights: list[float]
    bases: tuple[float, ...]
    objective: str
    features: int

    @property
    def is_classifier(self) -> bool:
        """Whether it gives probabilities of classes."""
        return self.objective == "binary:logistic" or self.objective in _SOFTMAX

    @property
    def classes(self) -> int:
        """How many classes a classifier knows."""
        return max(2, len(self.bases))


def load_xgboost(data: bytes) -> Draft:
    """Convert a model file of XGBoost, .json or .ubj.

    Raises:
        ArtifactRejectedError: it is damaged, or has what ONNX can't express; or XGBoost is not installed.
    """
    xgboost = require("xgboost")
    try:
        booster = xgboost.Booster()
        booster.load_model(bytearray(data))
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise ArtifactRejectedError(
            "the file looks like JSON or UBJSON, but XGBoost can't read a model from it"
        ) from error
    is_estimator = booster.attr("scikit_learn") is not None
    return convert_booster(_best(booster) if is_estimator else booster, "estimator" if is_estimator else "Booster")


def convert_estimator(estimator: Any) -> Draft:
    """Convert a trained XGBClassifier, XGBRegressor, XGBRanker or Booster object."""
    if not hasattr(estimator, "get_booster"):
        return convert_booster(estimator, type(estimator).__name__)
    missing = estimator.missing
    if missing is not None and not math.isnan(missing):
        raise ArtifactRejectedError(
            f"{type(estimator).__name__} was trained with missing={missing!r}; only NaN means a missing value here, so "
            "train with missing=numpy.nan"
        )
    labels = [str(label) for label in getattr(estimator, "classes_", ())]
    return convert_booster(_best(estimator.get_booster()), type(estimator).__name__, labels)


def convert_booster(booster: Any, name: str, labels: Sequence[str] = ()) -> Draft:
    """Convert a Booster. `labels`: of its classes, if it is a classifier; without them 0, 1 and so on."""
    import xgboost

    booster = booster.copy()
    forest = read_forest(booster)
    if forest.objective in _SOFTMAX:
        booster.set_param({"objective": "multi:softprob"})
    features = booster.feature_names or [f"x{i}" for i in range(forest.features)]

    def predict(rows: Rows) -> np.ndarray:
        matrix = xgboost.DMatrix(rows.dense.astype(np.float32), nthread=1)
        answer = np.asarray(booster.predict(matrix, validate_features=False), dtype=np.float64)
        if forest.is_classifier and answer.ndim == 1:
            return np.stack([1 - answer, answer], axis=1)
        return answer

    training = {"library": f"xgboost {xgboost.__version__}", "estimator": name, "objective": forest.objective}
    names = list(labels) or [str(i) for i in range(forest.classes)] if forest.is_classifier else []
    return Draft(_model(forest, features, names), _columns(forest, features), predict, training)


def _best(booster: Any) -> Any:
    """What an estimator answers with: the trees up to the best iteration, where its training was stopped early."""
    iteration = booster.attr("best_iteration")
    return booster if iteration is None else booster[: int(iteration) + 1]


def read_forest(booster: Any) -> Forest:
    """Read a booster's trees.

    Raises:
        ArtifactRejectedError: it has what can't be converted; the text says what.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective, name = learner["objective"]["name"], learner["gradient_booster"]["name"]
    if objective not in _IDENTITY | _EXPONENT | _LOGISTIC | _SOFTMAX:
        raise ArtifactRejectedError(f"XGBoost models of the objective {objective} can't be converted")
    if name not in {"gbtree", "dart"}:
        raise ArtifactRejectedError(f"XGBoost models of the booster {name} can't be converted, only gbtree and dart")
    boosted = learner["gradient_booster"]
    model = (boosted["gbtree"] if name == "dart" else boosted)["model"]
    trees = model["trees"]
    if any(tree["categories_nodes"] for tree in trees):
        raise ArtifactRejectedError(
            "the XGBoost model splits on categories, which can't be converted: use one-hot columns, or LightGBM"
        )
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        raise ArtifactRejectedError("XGBoost models of multi_strategy=multi_output_tree can't be converted")
    parameters = learner["learner_model_param"]
    outputs = max(1, int(parameters["num_class"]), int(parameters["num_target"]))
    bases = _bases(parameters["base_score"], objective, outputs)
    weights = boosted["weight_drop"] if name == "dart" else [1.0] * len(trees)
    return Forest(trees, model["tree_info"], weights, bases, objective, int(parameters["num_feature"]))


def _bases(text: str, objective: str, outputs: int) -> tuple[float, ...]:
    """The base score is kept as an answer; here it is wanted as a part of the sum. Before 3.1 it was one number."""
    found = json.loads(text)
    scores = found if isinstance(found, list) else [found]
    if objective in _LOGISTIC:
        scores = [math.log(score / (1 - score)) for score in scores]
    elif objective in _EXPONENT:
        scores = [math.log(score) for score in scores]
    return tuple(scores * outputs if len(scores) == 1 else scores)


def _columns(forest: Forest, features: Sequence[str]) -> list[Column]:
    """Made rows lie on the thresholds of the trees and beside them."""
    points: list[set[float]] = [set() for _ in features]
    for tree in forest.trees:
        for left, feature, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if left != -1 and len(points[feature]) < _MAX_POINTS:
                points[feature].add(threshold)
    return [
        Column(name, points=tuple(sorted(found)), takes_missing=True)
        for name, found in zip(features, points, strict=True)
    ]


def _model(forest: Forest, features: Sequence[str], labels: Sequence[str]) -> bytes:
    from onnx import helper

    lists: dict[str, Any] = tree_attributes(forest)
    trees = helper.make_node(
        "TreeEnsembleRegressor", ["X"], ["sum"], domain="ai.onnx.ml", n_targets=len(forest.bases),
        base_values=list(forest.bases), **lists,
    )  # fmt: skip
    nodes = [trees, *_finish(forest)]
    inputs, outputs = describe_ends(len(features), len(forest.bases) if not labels else len(labels), bool(labels))
    return serialize(helper.make_graph(nodes, "xgboost", inputs, outputs), features, labels)


def _finish(forest: Forest) -> list[Any]:
    """From the sum of the leaves to the answer."""
    from onnx import helper

    if forest.objective in _SOFTMAX:
        probabilities = [helper.make_node("Softmax", ["sum"], ["probabilities"], axis=1)]
    elif forest.is_classifier:
        probabilities = [
            helper.make_node("Neg", ["sum"], ["negative"]),
            helper.make_node("Concat", ["negative", "sum"], ["both"], axis=1),
            helper.make_node("Sigmoid", ["both"], ["probabilities"]),
        ]
    else:
        operator = (
            "Exp" if forest.objective in _EXPONENT else "Sigmoid" if forest.objective in _LOGISTIC else "Identity"
        )
        return [helper.make_node(operator, ["sum"], ["variable"])]
    return [*probabilities, helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0)]


def tree_attributes(forest: Forest) -> dict[str, list[Any]]:
    """The trees as the lists that TreeEnsembleRegressor wants, one entry a node, and one a leaf."""
    lists: dict[str, list[Any]] = {f"nodes_{name}": [] for name in _NODE_LISTS}
    lists |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(forest.trees):
        for node in _reachable(tree):
            _add_node(lists, number, node, tree)
            if tree["left_children"][node] == -1:
                leaf = float(np.float32(tree["split_conditions"][node]) * np.float32(forest.weights[number]))
                for name, value in zip(
                    ("treeids", "nodeids", "ids", "weights"), (number, node, forest.targets[number], leaf), strict=True
                ):
                    lists[f"target_{name}"].append(value)
    return lists


_NODE_LISTS = (
    "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true",
)  # fmt: skip


def _add_node(lists: dict[str, list[Any]], number: int, node: int, tree: dict[str, Any]) -> None:
    if tree["left_children"][node] == -1:
        entry: tuple[Any, ...] = (number, node, 0, "LEAF", 0.0, 0, 0, 0)
    else:
        entry = (
            number, node, tree["split_indices"][node], "BRANCH_LT", tree["split_conditions"][node],
            tree["left_children"][node], tree["right_children"][node], tree["default_left"][node],
        )  # fmt: skip
    for name, value in zip(_NODE_LISTS, entry, strict=True):
        lists[f"nodes_{name}"].append(value)


def _reachable(tree: dict[str, Any]) -> list[int]:
    """The nodes that pruning has left, in order."""
    found = [0]
    for node in found:
        if tree["left_children"][node] != -1:
            found += [tree["left_children"][node], tree["right_children"][node]]  # the list is the queue of the walk
    return sorted(found)
