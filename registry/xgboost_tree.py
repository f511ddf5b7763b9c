"""Strict check of one tree of an XGBoost model, and what is left of it for predictions. Pure.

Contract: `read_tree` gives a tree that XGBoost walks within its arrays and to an end: the nodes that can be reached
from the root form one binary tree of a bounded depth, the right child of a node stands behind its left one (the library
takes that for granted and looks at the left one alone), features exist, numbers are numbers, sets of categories lie
inside their array. Nodes that pruning has left behind are dropped. XGBoost itself checks few of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from registry.errors import ArtifactRejectedError

MAX_NODES = 200_000
MAX_DEPTH = 512  # XGBoost computes contributions recursively
MAX_CATEGORY = 1 << 24  # a greater code is no whole float32
_NONE = -1


class Tree(NamedTuple):
    """Arrays of shape (nodes,): int32 `left` and `right` children, -1 of a leaf; int64 `feature`; float32 `condition`,
    a threshold or the value of a leaf; bool `default_left`; float32 `hessian`, the weight of the rows that came by.
    `categories`: int64 arrays by node, of the nodes that split on categories; those go right.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    condition: np.ndarray
    default_left: np.ndarray
    hessian: np.ndarray
    categories: dict[int, np.ndarray]

    @property
    def has_counts(self) -> bool:
        """Whether contributions can be computed: each split has seen as much as its children, and that is something."""
        splits = self.left >= 0
        below = self.hessian[self.left[splits]].astype(np.float64) + self.hessian[self.right[splits]]
        here = self.hessian[splits].astype(np.float64)
        return bool((here > 0).all() and np.allclose(here, below, rtol=0.01, atol=0.01))


def require(holds: object, where: str, what: str) -> None:
    """Raise ArtifactRejectedError, naming the place, unless the condition holds."""
    if not holds:
        raise ArtifactRejectedError(f"XGBoost model is damaged: {where} {what}")


def member(fields: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A member of an object that must be there and of this kind."""
    value = fields.get(key)
    require(isinstance(value, kind) and not isinstance(value, bool), where, f"has no {key}")
    return value


def integer(fields: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A whole number written as text, as XGBoost writes its parameters."""
    text = fields.get(key, None if default is None else str(default))
    require(isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10, where, f"has no {key}")
    return int(str(text))


def numbers(fields: Mapping[str, Any], key: str, dtype: type[np.number[Any]], count: int | None, where: str) -> Any:
    """An array of shape (count,), or of any length, of whole numbers of 64 bits or of float32."""
    found = fields.get(key)
    if isinstance(found, list):
        require(set(map(type, found)) <= {int, float, bool}, where, f"{key} is no list of numbers")
        try:
            found = np.array(found, np.float64 if dtype is np.float32 else None)
        except (ValueError, OverflowError):
            found = None
    require(isinstance(found, np.ndarray) and found.ndim == 1, where, f"{key} is no list of numbers")
    assert isinstance(found, np.ndarray)  # noqa: S101 -- for the type checker
    require(count is None or len(found) == count, where, f"{key} has {len(found)} entries, wanted {count}")
    if dtype is np.float32:
        with np.errstate(over="ignore"):
            return found.astype(np.float32)
    require(not len(found) or found.dtype.kind in "iub", where, f"{key} has numbers that aren't whole")
    return found.astype(dtype)


def read_tree(fields: object, number: int, features: int) -> Tree:
    """Check tree `number` of a model with so many features.

    Raises:
        ArtifactRejectedError: names the tree and the field at fault.
    """
    where = f"tree {number}"
    require(isinstance(fields, dict), where, "is no object")
    assert isinstance(fields, dict)  # noqa: S101 -- for the type checker
    count = _count(fields, features, where)
    left, right = (numbers(fields, f"{side}_children", np.int64, count, where) for side in ("left", "right"))
    order = _reachable(left, right, where)
    _check_parents(numbers(fields, "parents", np.int64, count, where), left, order, where)
    require(fields.get("id") == number, where, "has another id")  # XGBoost puts it there
    tree = _compact(fields, left, order, count, where)
    _check_nodes(tree, features, where)
    return tree


def _count(fields: Mapping[str, Any], features: int, where: str) -> int:
    parameters = member(fields, "tree_param", dict, where)
    count = integer(parameters, "num_nodes", where)
    require(1 <= count <= MAX_NODES, where, f"num_nodes is {count}, wanted 1-{MAX_NODES}")
    require(
        integer(parameters, "size_leaf_vector", where, 0) <= 1,
        where,
        "has leaves of several numbers, which no scorer takes",
    )
    require(
        integer(parameters, "num_feature", where, features) == features, where, "num_feature is not that of the model"
    )
    for key in ("base_weights", "loss_changes"):
        numbers(fields, key, np.float32, count, where)  # parsed by XGBoost, though unused by predictions
    return count


def _reachable(left: np.ndarray, right: np.ndarray, where: str) -> np.ndarray:
    """The nodes of the tree, rising. Level by level, so that a cycle is met where it closes."""
    seen = np.zeros(len(left), np.bool_)
    level, visited = np.zeros(1, np.int64), 0
    for _ in range(MAX_DEPTH + 1):
        seen[level] = True
        visited += len(level)
        require(np.count_nonzero(seen) == visited, where, "left_children and right_children don't form one tree")
        below, beside = left[level], right[level]
        is_split = below != _NONE
        require(((beside != _NONE) == is_split).all(), where, "has a node with one child")
        below, beside = below[is_split], beside[is_split]
        if not len(below):
            return np.flatnonzero(seen)
        inside = below.min() > 0 and below.max() < len(left) - 1 and (beside == below + 1).all()
        require(inside, where, "left_children or right_children point outside the tree, or not side by side")
        level = np.concatenate([below, beside])
    raise ArtifactRejectedError(f"XGBoost model: {where} is deeper than {MAX_DEPTH}, which no scorer takes")


def _check_parents(parents: np.ndarray, left: np.ndarray, order: np.ndarray, where: str) -> None:
    splits = order[left[order] != _NONE]
    fit = (parents[left[splits]] == splits) & (parents[left[splits] + 1] == splits)
    require(fit.all() and ((parents >= -1) & (parents < 2**31)).all(), where, "parents don't fit the children")


def _compact(fields: Mapping[str, Any], left: np.ndarray, order: np.ndarray, count: int, where: str) -> Tree:
    """The tree without nodes that can't be reached; these always are pairs, so that children stay side by side."""
    place = np.full(count + 1, _NONE, np.int64)  # the last one is for -1
    place[order] = np.arange(len(order))
    new_left = place[left[order]]
    split = new_left != _NONE
    feature = numbers(fields, "split_indices", np.int64, count, where)[order]
    return Tree(
        left=new_left.astype(np.int32),
        right=np.where(split, new_left + 1, _NONE).astype(np.int32),
        feature=np.where(split, feature, 0),
        condition=numbers(fields, "split_conditions", np.float32, count, where)[order],
        default_left=(numbers(fields, "default_left", np.int64, count, where)[order] != 0) & split,
        hessian=numbers(fields, "sum_hessian", np.float32, count, where)[order],
        categories=_categories(fields, place, left, count, where),
    )


def _check_nodes(tree: Tree, features: int, where: str) -> None:
    split = tree.left != _NONE
    require(
        ((tree.feature >= 0) & (tree.feature < features)).all(), where, f"split_indices is outside 0-{features - 1}"
    )
    require(np.isfinite(tree.condition[~split]).all(), where, "the value of a leaf is not finite")
    require(not np.isnan(tree.condition[split]).any(), where, "split_conditions has no number")
    require((np.isfinite(tree.hessian) & (tree.hessian >= 0)).all(), where, "sum_hessian is negative or not finite")


def _categories(
    fields: Mapping[str, Any], place: np.ndarray, left: np.ndarray, count: int, where: str
) -> dict[int, np.ndarray]:
    kinds = (
        numbers(fields, "split_type", np.int64, count, where) if "split_type" in fields else np.zeros(count, np.int64)
    )
    require(((kinds == 0) | (kinds == 1)).all(), where, "split_type is unknown")
    nodes, segments, sizes, values = (
        numbers(fields, key, np.int64, None, where)
        for key in ("categories_nodes", "categories_segments", "categories_sizes", "categories")
    )
    require(np.array_equal(nodes, np.flatnonzero(kinds)), where, "categories_nodes are not those that split_type says")
    require(len(nodes) == len(segments) == len(sizes), where, "categories_segments or categories_sizes don't fit")
    inside = (segments >= 0) & (sizes > 0) & (sizes <= len(values)) & (segments <= len(values) - sizes)
    require(inside.all() and (left[nodes] != _NONE).all(), where, "a set of categories lies outside categories")
    require(((values >= 0) & (values < MAX_CATEGORY)).all(), where, f"categories is outside 0-{MAX_CATEGORY - 1}")
    return _sets(place, nodes.tolist(), segments.tolist(), sizes.tolist(), values)


def _sets(
    place: np.ndarray, nodes: Sequence[int], segments: Sequence[int], sizes: Sequence[int], values: np.ndarray
) -> dict[int, np.ndarray]:
    return {
        int(place[node]): np.array(sorted({*values[start : start + size].tolist()}), np.int64)
        for node, start, size in zip(nodes, segments, sizes, strict=True)
        if place[node] != _NONE
    }
