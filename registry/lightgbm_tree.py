"""Strict check of one tree in a LightGBM text model. Pure.

Contract: a block that passes has arrays of the lengths that LightGBM's parser and its prediction loop take for granted,
every index inside its array, and children that form one binary tree. A child that is no leaf has a greater number than
its parent, as LightGBM itself numbers them; that alone excludes cycles, over which a prediction would run for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from registry.errors import ArtifactRejectedError

MAX_LEAVES = 100_000

_INTEGERS = re.compile(r"(?:-?[0-9]{1,10}(?: -?[0-9]{1,10})*)?", re.ASCII)
_NUMBER = r"-?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|inf|nan)"
_NUMBERS = re.compile(rf"(?:{_NUMBER}(?: {_NUMBER})*)?", re.ASCII)

_REQUIRED = {"Tree", "num_leaves", "num_cat", "leaf_value", "shrinkage"}
_SPLIT_WEIGHTS, _LEAF_WEIGHTS = ("split_gain", "internal_value", "internal_weight"), ("leaf_weight",)
_SPLIT_COUNTS, _LEAF_COUNTS = ("internal_count",), ("leaf_count",)
_SPLITS = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_CATEGORIES = ("cat_boundaries", "cat_threshold")
KNOWN_LINES = _REQUIRED | {
    "is_linear",
    *_SPLITS,
    *_CATEGORIES,
    *_SPLIT_WEIGHTS,
    *_LEAF_WEIGHTS,
    *_SPLIT_COUNTS,
    *_LEAF_COUNTS,
}

_CATEGORICAL_BIT = 1
_MISSING_TYPE_SHIFT, _MISSING_TYPES = 2, 3


def read_fields(lines: list[str], where: str, known: set[str]) -> dict[str, str]:
    """Read `key=value` lines. A line without `=` has the value "". Rejects a key that isn't known or comes twice."""
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        require(key in known, where, f"has an unknown line {line[:60]!r}")
        require(key not in fields, where, f"has {key} twice")
        fields[key] = value
    return fields


def require(holds: object, where: str, what: str) -> None:
    """Raise ArtifactRejectedError, naming the place, unless the condition holds."""
    if not holds:
        raise ArtifactRejectedError(f"LightGBM model is damaged: {where} {what}")


def integer(fields: Mapping[str, str], key: str, where: str) -> int:
    """One integer of at most 10 digits."""
    values = integers(fields, key, 1, where)
    return int(values[0])


def integers(fields: Mapping[str, str], key: str, count: int, where: str) -> np.ndarray:
    """int64 array of shape (count,)."""
    return _array((_INTEGERS, np.dtype(np.int64)), fields, key, count, where)


def numbers(fields: Mapping[str, str], key: str, count: int, where: str) -> np.ndarray:
    """float64 array of shape (count,); may hold inf and nan."""
    return _array((_NUMBERS, np.dtype(np.float64)), fields, key, count, where)


def _array(
    form: tuple[re.Pattern[str], np.dtype[Any]], fields: Mapping[str, str], key: str, count: int, where: str
) -> np.ndarray:
    pattern, dtype = form
    require(key in fields, where, f"has no {key}")
    require(pattern.fullmatch(fields[key]), where, f"{key} is not a list of numbers")
    values: np.ndarray = np.array(fields[key].split(), dtype=dtype)
    require(len(values) == count, where, f"{key} has {len(values)} entries, wanted {count}")
    return values


def check_tree(block: str, number: int, features: int) -> None:
    """Check the text of tree `number` of a model with so many features, from its line `Tree=` on.

    Raises:
        ArtifactRejectedError: names the tree and the field at fault.
    """
    where = f"tree {number}"
    require("\nis_linear=1\n" not in block, where, "is_linear is set; linear trees are not supported")
    fields = read_fields([line for line in block.split("\n") if line], where, KNOWN_LINES)
    for key in _REQUIRED - fields.keys():
        require(False, where, f"has no {key}")
    require(integer(fields, "Tree", where) == number, where, "has the wrong number")
    require(fields.get("is_linear", "0") == "0", where, "is_linear is not 0")
    leaves = integer(fields, "num_leaves", where)
    require(1 <= leaves <= MAX_LEAVES, where, f"num_leaves is {leaves}, wanted 1-{MAX_LEAVES}")
    _check_leaves(fields, leaves, where)
    _check_annotations(fields, leaves, where)
    if leaves == 1:
        require(fields["num_cat"] == "0", where, "num_cat is not 0 in a tree of one leaf")
        return
    _check_splits(fields, leaves, features, where)
    _check_categories(fields, leaves, where)


def _check_leaves(fields: Mapping[str, str], leaves: int, where: str) -> None:
    values = numbers(fields, "leaf_value", leaves, where)
    require(np.isfinite(values).all(), where, "leaf_value is not finite")
    require(np.isfinite(numbers(fields, "shrinkage", 1, where)[0]), where, "shrinkage is not finite")


def _check_annotations(fields: Mapping[str, str], leaves: int, where: str) -> None:
    """What training noted beside the splits; unused by predictions, but parsed."""
    splits = leaves - 1
    for keys, count, read in (
        (_SPLIT_WEIGHTS, splits, numbers),
        (_LEAF_WEIGHTS, leaves, numbers),
        (_SPLIT_COUNTS, splits, integers),
        (_LEAF_COUNTS, leaves, integers),
    ):
        for key in keys:
            # A tree of one leaf keeps some of these lines, empty.
            if key in fields and (leaves > 1 or fields[key]):
                read(fields, key, count, where)


def _check_splits(fields: Mapping[str, str], leaves: int, features: int, where: str) -> None:
    splits = leaves - 1
    feature = integers(fields, "split_feature", splits, where)
    require(((feature >= 0) & (feature < features)).all(), where, f"split_feature is outside 0-{features - 1}")
    require(not np.isnan(numbers(fields, "threshold", splits, where)).any(), where, "threshold is not a number")
    decision = integers(fields, "decision_type", splits, where)
    valid = (decision >= 0) & (decision >> _MISSING_TYPE_SHIFT < _MISSING_TYPES)
    require(valid.all(), where, "decision_type is unknown")
    left, right = (integers(fields, side, splits, where) for side in ("left_child", "right_child"))
    _check_shape(np.concatenate([left, right]), leaves, where)


def _check_shape(children: np.ndarray, leaves: int, where: str) -> None:
    """`children`: left children of all splits, then right ones; leaf i is written as -1 - i."""
    splits = leaves - 1
    parents = np.tile(np.arange(splits), 2)
    below = (children < 0) | (children > parents)
    require(below.all(), where, "left_child or right_child points upwards")
    every_node_once = np.concatenate([np.arange(-leaves, 0), np.arange(1, splits)])
    require(np.array_equal(np.sort(children), every_node_once), where, "left_child and right_child don't form one tree")


def _check_categories(fields: Mapping[str, str], leaves: int, where: str) -> None:
    splits = leaves - 1
    sets = integer(fields, "num_cat", where)
    categorical = (integers(fields, "decision_type", splits, where) & _CATEGORICAL_BIT) == 1
    require(0 <= sets <= splits, where, f"num_cat is {sets}, wanted 0-{splits}")
    if not sets:
        require(not categorical.any(), where, "has categorical splits, but num_cat is 0")
        return
    chosen = numbers(fields, "threshold", splits, where)[categorical]
    valid = (chosen == np.floor(chosen)) & (chosen >= 0) & (chosen < sets)
    require(valid.all(), where, "threshold of a categorical split names no set of categories")
    _check_bitsets(fields, sets, where)


def _check_bitsets(fields: Mapping[str, str], sets: int, where: str) -> None:
    boundaries = integers(fields, "cat_boundaries", sets + 1, where)
    require(boundaries[0] == 0 and (np.diff(boundaries) > 0).all(), where, "cat_boundaries don't rise from 0")
    words = integers(fields, "cat_threshold", int(boundaries[-1]), where)
    require(((words >= 0) & (words < 2**32)).all(), where, "cat_threshold is outside 32 bits")
