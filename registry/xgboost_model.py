"""Strict check of an XGBoost model, .json or .ubj, before any process may load it. Pure.

Contract: a file that passes `read_xgboost` has all that XGBoost 1.6 or newer writes and that predictions need, with
indices inside their arrays (`registry.xgboost_tree`), so that it loads and predicts. What only training needs isn't
looked at and never reaches a scorer: see `registry.xgboost_rewrite`. Costs about 0.3 ms a tree; meant for publishing.

A file that XGBClassifier or XGBRegressor saved answers with the trees up to its best iteration where its training was
stopped early, as they do; a Booster's file answers with all of its trees, as it does.

The format: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html (the schema is at its end).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from registry.errors import ArtifactRejectedError
from registry.model import ModelSchema, OutputKind, OutputSchema
from registry.ubjson import BadUbjsonError, decode
from registry.xgboost_categories import read_categories
from registry.xgboost_tree import Tree, integer, member, numbers, read_tree, require

_UBJSON = re.compile(rb"\{[iUIlL}]")  # the length of the first key; in JSON a quote or a space follows
MAX_FEATURES = 10_000
MAX_OUTPUTS = 1_000
MAX_TREES = 20_000

_REAL = (
    *("reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"),
    *("reg:logistic", "reg:gamma", "reg:tweedie", "count:poisson", "survival:cox", "binary:logitraw"),
)
_CLASSES = ("binary:logistic", "multi:softprob")
_RANKING = ("rank:pairwise", "rank:ndcg", "rank:map")
_OBJECTIVES = frozenset({*_REAL, *_CLASSES, *_RANKING})
_UNIT = frozenset({"binary:logistic", "reg:logistic"})
_POSITIVE = frozenset({"reg:gamma", "reg:tweedie", "count:poisson", "survival:cox"})

_LEARNER, _MODEL = "learner", "gradient_booster"


class Forest(NamedTuple):
    """A checked model. `groups`: the output that each tree adds to. `kept_trees`: those that answer. `bases`: the base
    scores, one or one an output. `weights`: of the trees of a dart booster, else
    None. `alphas`: the quantiles of reg:quantileerror. `version`: of XGBoost that wrote it.
    """

    features: tuple[str, ...]
    kinds: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    objective: str
    classes: int
    targets: int
    bases: tuple[float, ...]
    alphas: tuple[float, ...]
    trees: list[Tree]
    groups: np.ndarray
    parallel_trees: int
    kept_trees: int
    weights: np.ndarray | None
    version: tuple[int, int, int]

    @property
    def outputs(self) -> int:
        """Raw scores a row."""
        return max(1, self.classes, self.targets)


def read_xgboost(data: bytes) -> Forest:
    """Check that XGBoost can load `data` and predict with it without crashing, hanging or reading out of bounds.

    Raises:
        ArtifactRejectedError: names the place at fault, or what no scorer takes.
    """
    document = _document(data)
    learner = member(document, "learner", dict, "the file")
    parameters = member(learner, "learner_model_param", dict, _LEARNER)
    features = integer(parameters, "num_feature", _LEARNER)
    require(1 <= features <= MAX_FEATURES, _LEARNER, f"num_feature is {features}, wanted 1-{MAX_FEATURES}")
    objective = _objective(learner)
    classes, targets = (integer(parameters, f"num_{what}", _LEARNER, 1) for what in ("class", "target"))
    outputs = _check_outputs(objective, classes, targets)
    names, kinds = _names(learner, features), _strings(learner, "feature_types", features)
    model, weights = _booster(member(learner, _MODEL, dict, _LEARNER))
    trees = [read_tree(tree, number, features) for number, tree in enumerate(_trees(model))]
    parallel = integer(member(model, "gbtree_model_param", dict, _MODEL), "num_parallel_tree", _MODEL, 1)
    rounds = _rounds(model, len(trees), outputs, parallel)
    return Forest(
        features=names,
        kinds=kinds,
        categories=read_categories(model, names, kinds),
        objective=objective,
        classes=classes,
        targets=targets,
        bases=_bases(parameters, objective, outputs),
        alphas=_alphas(learner, objective, outputs),
        trees=trees,
        groups=_groups(model, len(trees), outputs),
        parallel_trees=parallel,
        kept_trees=rounds[_kept_rounds(learner, len(rounds) - 1)],
        weights=_weights(weights, len(trees)),
        version=_version(document),
    )


def check_xgboost(data: bytes) -> None:
    """As `read_xgboost`, for its errors alone."""
    read_xgboost(data)


def describe_xgboost(forest: Forest) -> ModelSchema:
    """What goes in and what comes out. One number of probability p becomes the probabilities of the classes "0" and
    "1".
    """
    dtypes = {name: "category" for name, kind in zip(forest.features, forest.kinds, strict=False) if kind == "c"}
    split_on = {forest.features[tree.feature[node]] for tree in forest.trees for node in tree.categories}
    dtypes |= dict.fromkeys((name for name in forest.features if name in split_on), "category")
    return ModelSchema(forest.features, (_output(forest),), dtypes=dtypes, categories=forest.categories)


def _output(forest: Forest) -> OutputSchema:
    columns = tuple(str(number) for number in range(forest.outputs))
    if forest.objective in _CLASSES:
        labels = columns if len(columns) > 1 else ("0", "1")
        return OutputSchema("probabilities", OutputKind.CLASS_PROBABILITIES, labels)
    if len(columns) > 1:
        return OutputSchema("values", OutputKind.MULTI_OUTPUT, columns)
    if forest.objective in _RANKING:
        return OutputSchema("scores", OutputKind.RANKING)
    return OutputSchema("value", OutputKind.REGRESSION)


def _document(data: bytes) -> Mapping[str, Any]:
    try:
        document = decode(data) if _UBJSON.match(data) else msgspec.json.decode(data)
    except BadUbjsonError as error:
        raise ArtifactRejectedError(f"XGBoost model is damaged: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ArtifactRejectedError(
            "the file looks like JSON, but is none; XGBoost models may be .json or .ubj"
        ) from error
    is_model = isinstance(document, dict) and isinstance(document.get("learner"), dict)
    if not is_model:
        raise ArtifactRejectedError("the file is JSON or UBJSON, but no XGBoost model (Booster.save_model)")
    return dict(document)


def _version(document: Mapping[str, Any]) -> tuple[int, int, int]:
    found = document.get("version")
    parts = found.tolist() if isinstance(found, np.ndarray) else found
    fits = isinstance(parts, list) and len(parts) == 3 and all(type(part) is int and 0 <= part < 100 for part in parts)
    require(fits, "the file", "has no version")
    assert isinstance(parts, list)  # noqa: S101 -- for the type checker
    require(parts >= [1, 6, 0], "the file", f"is of version {parts[0]}.{parts[1]}: save it with XGBoost 1.6 or newer")
    return parts[0], parts[1], parts[2]


def _objective(learner: Mapping[str, Any]) -> str:
    name = member(member(learner, "objective", dict, _LEARNER), "name", str, _LEARNER)
    if name == "multi:softmax":
        raise ArtifactRejectedError(
            'XGBoost models of the objective multi:softmax give no probabilities: call set_param({"objective": '
            '"multi:softprob"}) before you save it'
        )
    if name not in _OBJECTIVES:
        raise ArtifactRejectedError(f"XGBoost models of the objective {name[:40]!r} can't be scored")
    return str(name)


def _check_outputs(objective: str, classes: int, targets: int) -> int:
    outputs = max(1, classes, targets)
    require(outputs <= MAX_OUTPUTS, _LEARNER, f"has {outputs} outputs, wanted at most {MAX_OUTPUTS}")
    if objective == "multi:softprob":
        require(classes > 1 and targets <= 1, _LEARNER, "has one class, or several targets, with multi:softprob")
        return outputs
    require(classes <= 1, _LEARNER, f"has {classes} classes, which objective {objective} doesn't have")
    if outputs > 1 and objective not in _REAL:
        raise ArtifactRejectedError(
            f"XGBoost models of {outputs} targets with the objective {objective} can't be scored"
        )
    return outputs


def _names(learner: Mapping[str, Any], count: int) -> tuple[str, ...]:
    names = _strings(learner, "feature_names", count) or tuple(f"x{number}" for number in range(count))
    require(len({*names}) == count and "" not in names, _LEARNER, "feature_names has an empty or repeated name")
    return names


def _strings(learner: Mapping[str, Any], key: str, count: int) -> tuple[str, ...]:
    """One text a feature, or none at all."""
    found = learner.get(key, [])
    found = found.tolist() if isinstance(found, np.ndarray) else found
    fits = isinstance(found, list) and all(isinstance(each, str) for each in found) and len(found) in {0, count}
    require(fits, _LEARNER, f"{key} is not one text a feature")
    return tuple(found)


def _booster(booster: Mapping[str, Any]) -> tuple[Mapping[str, Any], object]:
    """(the trees and what is about them, the weights of trees)."""
    name = member(booster, "name", str, _MODEL)
    if name not in {"gbtree", "dart"}:
        raise ArtifactRejectedError(
            f"XGBoost models of the booster {name[:40]!r} can't be scored, only gbtree and dart"
        )
    if name == "gbtree":
        return member(booster, "model", dict, _MODEL), None
    inner = member(booster, "gbtree", dict, _MODEL)
    return member(inner, "model", dict, _MODEL), {
        "weight_drop": member(booster, "weight_drop", (list, np.ndarray), _MODEL)
    }


def _trees(model: Mapping[str, Any]) -> list[Any]:
    trees: list[Any] = member(model, "trees", list, _MODEL)
    count = integer(member(model, "gbtree_model_param", dict, _MODEL), "num_trees", _MODEL)
    require(len(trees) == count, _MODEL, f"has {len(trees)} trees, num_trees is {count}")
    require(1 <= count <= MAX_TREES, _MODEL, f"has {count} trees, wanted 1-{MAX_TREES}")
    return trees


def _groups(model: Mapping[str, Any], trees: int, outputs: int) -> np.ndarray:
    groups: np.ndarray = numbers(model, "tree_info", np.int64, trees, _MODEL)
    require(((groups >= 0) & (groups < outputs)).all(), _MODEL, f"tree_info is outside 0-{outputs - 1}")
    return groups


def _rounds(model: Mapping[str, Any], trees: int, outputs: int, parallel: int) -> list[int]:
    """How many trees there are after each round, from 0 on."""
    width = outputs * parallel
    require(1 <= width <= trees and trees % width == 0, _MODEL, "the trees are no whole rounds")
    whole = list(range(0, trees + 1, width))
    if "iteration_indptr" in model:  # since 2.0
        told = numbers(model, "iteration_indptr", np.int64, None, _MODEL).tolist()
        require(told == whole, _MODEL, "iteration_indptr doesn't fit the trees")
    return whole


def _kept_rounds(learner: Mapping[str, Any], rounds: int) -> int:
    attributes = member(learner, "attributes", dict, _LEARNER)
    if "scikit_learn" not in attributes or "best_iteration" not in attributes:
        return rounds
    best = integer(attributes, "best_iteration", "attributes")
    require(best < rounds, "attributes", f"best_iteration is {best} of {rounds} rounds")
    return best + 1


def _bases(parameters: Mapping[str, Any], objective: str, outputs: int) -> tuple[float, ...]:
    """One number an output. Before 3.1 it was one for all."""
    text = member(parameters, "base_score", str, _LEARNER)
    found = _floats(text, "base_score")
    require(len(found) in {1, outputs}, _LEARNER, f"base_score has {len(found)} numbers, wanted {outputs}")
    if objective in _UNIT:
        require(all(0 < each < 1 for each in found), _LEARNER, "base_score is outside 0 to 1")
    if objective in _POSITIVE:
        require(all(each > 0 for each in found), _LEARNER, "base_score is not positive")
    return found


def _alphas(learner: Mapping[str, Any], objective: str, outputs: int) -> tuple[float, ...]:
    if objective != "reg:quantileerror":
        return ()
    parameters = member(learner["objective"], "quantile_loss_param", dict, _LEARNER)
    alphas = _floats(member(parameters, "quantile_alpha", str, _LEARNER), "quantile_alpha")
    fits = len(alphas) == outputs and all(0 <= alpha <= 1 for alpha in alphas)
    require(fits, _LEARNER, f"quantile_alpha is not {outputs} numbers of 0 to 1")
    return alphas


def _floats(text: str, what: str) -> tuple[float, ...]:
    """float32 numbers, written as one or as a list of them."""
    try:
        found = msgspec.json.decode(text, type=float | list[float])
    except msgspec.DecodeError:
        found = []
    with np.errstate(over="ignore"):
        values = np.array(found, np.float32).reshape(-1)
    require(0 < len(values) <= MAX_OUTPUTS and np.isfinite(values).all(), _LEARNER, f"{what} is no number")
    return tuple(values.tolist())


def _weights(found: object, trees: int) -> np.ndarray | None:
    if not isinstance(found, dict):
        return None
    weights: np.ndarray = numbers(found, "weight_drop", np.float32, trees, _MODEL)
    require(np.isfinite(weights).all(), _MODEL, "weight_drop is not finite")
    return weights
