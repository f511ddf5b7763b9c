"""Writes a checked XGBoost model anew, with only what predictions need. Pure.

Contract: `rewrite` makes the UBJSON that scorers load. Each number of it is written from a parsed value, so no byte of
the offered file reaches a scorer that was not understood; names of features aren't written at all, scorers have them in
the schema. XGBoost wants every array of a tree, also those that it doesn't use, so these are zeros, and the memory of a
loaded model is the same. The weights of nodes stay, as contributions come from them; predictions and contributions are
bit-identical. Trees after an estimator's best iteration are left out.

Invariants: the same model gives the same bytes, and the result passes `check_xgboost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from registry.ubjson import Typed, encode
from registry.xgboost_model import Forest
from registry.xgboost_tree import Tree

_ROOT = 2**31 - 1  # the parent of the root
# What XGBoost's own file has of the objective; none of it changes an answer.
_REG_LOSS = {"reg_loss_param": {"scale_pos_weight": "1"}}
_OBJECTIVES: dict[str, dict[str, dict[str, str]]] = {
    **dict.fromkeys(("reg:squarederror", "reg:logistic", "reg:gamma", "binary:logistic", "binary:logitraw"), _REG_LOSS),
    "reg:pseudohubererror": {"pseudo_huber_param": {"huber_slope": "1"}},
    "reg:tweedie": {"tweedie_regression_param": {"tweedie_variance_power": "1.5"}},
    "count:poisson": {"poisson_regression_param": {"max_delta_step": "0.7"}},
}


def rewrite(forest: Forest) -> bytes:
    """The bytes that scorers load; about 38 a node."""
    weights = forest.weights
    model = _model(forest)
    booster: dict[str, Any] = {"model": model, "name": "gbtree"}
    if weights is not None:
        kept = weights[: forest.kept_trees].tolist()
        booster = {"gbtree": booster, "name": "dart", "weight_drop": kept}
    parameters = {
        "base_score": _list(forest.bases) if forest.version >= (3, 1, 0) else _number(forest.bases[0]),
        "boost_from_average": "1",
        "num_class": str(forest.classes),
        "num_feature": str(len(forest.features)),
        "num_target": str(forest.targets),
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": booster,
        "learner_model_param": parameters,
        "objective": _objective(forest),
    }
    return encode({"learner": learner, "version": list(forest.version)})


def _model(forest: Forest) -> dict[str, Any]:
    count = forest.kept_trees
    features = len(forest.features)
    return {
        "gbtree_model_param": {"num_parallel_tree": str(forest.parallel_trees), "num_trees": str(count)},
        "iteration_indptr": list(range(0, count + 1, forest.outputs * forest.parallel_trees)),
        "tree_info": forest.groups[:count].tolist(),
        "trees": [_tree(number, tree, features) for number, tree in enumerate(forest.trees[:count])],
    }


def _objective(forest: Forest) -> dict[str, Any]:
    found: dict[str, Any] = {"name": forest.objective, **_OBJECTIVES.get(forest.objective, {})}
    if forest.objective == "multi:softprob":
        found["softmax_multiclass_param"] = {"num_class": str(forest.classes)}
    if forest.objective == "reg:quantileerror":
        found["quantile_loss_param"] = {"quantile_alpha": _list(forest.alphas)}
    if forest.objective.startswith("rank:"):
        found["lambdarank_param"] = {}
    return found


def _list(values: Sequence[float]) -> str:
    return f"[{','.join(map(_number, values))}]"


def _number(value: float) -> str:
    """The shortest text that is the same float32."""
    return str(np.float32(value)).upper()


def _tree(number: int, tree: Tree, features: int) -> dict[str, Any]:
    count = len(tree.left)
    nodes = sorted(tree.categories)
    sets = [tree.categories[node] for node in nodes]
    sizes = np.array([len(each) for each in sets], np.int64)
    zeros = Typed("d", np.zeros(count))
    return {
        "base_weights": zeros,
        "categories": Typed("l", np.concatenate(sets) if sets else np.zeros(0)),
        "categories_nodes": Typed("l", np.array(nodes, np.int64)),
        "categories_segments": Typed("L", np.cumsum(sizes) - sizes),
        "categories_sizes": Typed("L", sizes),
        "default_left": Typed("U", tree.default_left),
        "id": number,
        "left_children": Typed("l", tree.left),
        "loss_changes": zeros,
        "parents": Typed("l", _parents(tree)),
        "right_children": Typed("l", tree.right),
        "split_conditions": Typed("d", tree.condition),
        "split_indices": Typed("l", tree.feature),
        "split_type": Typed("U", np.isin(np.arange(count), nodes)),
        "sum_hessian": Typed("d", tree.hessian),
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }


def _parents(tree: Tree) -> np.ndarray:
    parents = np.full(len(tree.left), _ROOT, np.int64)
    splits = np.flatnonzero(tree.left >= 0)
    parents[tree.left[splits]] = splits
    parents[tree.right[splits]] = splits
    return parents
