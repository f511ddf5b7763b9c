"""Damage that keeps an XGBoost file well formed, so that it reaches the inner checks, or what lies behind them.

A file is read as JSON, changed, and written as JSON or as UBJSON in the way of XGBoost itself: arrays of a tree with a
type, all others without.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

_TYPES = {
    **dict.fromkeys(("left_children", "right_children", "parents", "split_indices"), "l"),
    **dict.fromkeys(("categories", "categories_nodes"), "l"),
    **dict.fromkeys(("categories_segments", "categories_sizes"), "L"),
    **dict.fromkeys(("default_left", "split_type"), "U"),
    **dict.fromkeys(("split_conditions", "base_weights", "loss_changes", "sum_hessian"), "d"),
}
_CODES = {"U": "B", "l": "i", "L": "q", "d": "f"}
_RANGES = {"U": (0, 255), "l": (-(2**31), 2**31 - 1), "L": (-(2**63), 2**63 - 1)}
_INTEGERS = (-1, 0, 1, 2, -2, 7, 40, 255, 65536, 999_999, 2**31 - 1, -(2**31), 2**24, 2**40, 2**62)
_REALS = (0.0, -0.0, -1.0, 1e38, -1e38, 1e-45, math.inf, -math.inf, math.nan)
_TEXTS = (
    "-1",
    "0",
    "1",
    "2",
    "7",
    "999999999",
    "2147483648",
    "",
    "x",
    "1.5",
    "[0.5]",
    "[]",
    "[1E0,2E0]",
    "nan",
    "1E39",
)
_NAMES = (
    "multi:softmax",
    "binary:hinge",
    "rank:map",
    "survival:aft",
    "reg:gamma",
    "gblinear",
    "dart",
    "gbtree",
    "nope",
)


Damage = Callable[[bytes, Random], bytes]


def _damaging(change: Callable[[Any, Random], None]) -> Damage:
    def damage(data: bytes, chance: Random) -> bytes:
        document = json.loads(data)
        change(document, chance)
        if chance.random() < 0.3:
            return json.dumps(document).replace("NaN", "0").replace("Infinity", "1e39").encode()
        return _ubjson("", document)

    damage.__name__ = change.__name__
    return damage


def as_either(damages: Sequence[Damage]) -> list[Damage]:
    """Damage to the bytes of a file, in JSON or in UBJSON."""

    def of_either(damage: Damage) -> Damage:
        def damaged(data: bytes, chance: Random) -> bytes:
            return damage(data if chance.random() < 0.3 else _ubjson("", json.loads(data)), chance)

        damaged.__name__ = damage.__name__
        return damaged

    return [of_either(damage) for damage in damages]


def _ubjson(key: str, value: Any) -> bytes:
    if isinstance(value, dict):
        return b"{" + b"".join(_text(str(name)) + _ubjson(name, each) for name, each in value.items()) + b"}"
    if isinstance(value, list) and key in _TYPES and all(isinstance(each, int | float) for each in value):
        return _typed(_TYPES[key], value)
    if isinstance(value, list):
        return b"[#" + struct.pack(">cq", b"L", len(value)) + b"".join(_ubjson("", each) for each in value)
    if isinstance(value, str):
        return b"S" + _text(value)
    if isinstance(value, float):
        return b"d" + _float(value)
    return struct.pack(">cq", b"L", max(min(int(value), 2**63 - 1), -(2**63)))


def _typed(marker: str, values: list[Any]) -> bytes:
    if marker == "d":
        numbers = b"".join(map(_float, values))
    else:
        low, high = _RANGES[marker]
        clipped = [max(min(int(value), high), low) for value in values]
        numbers = struct.pack(f">{len(values)}{_CODES[marker]}", *clipped)
    return b"[$" + marker.encode() + b"#" + struct.pack(">cq", b"L", len(values)) + numbers


def _float(value: float) -> bytes:
    return struct.pack(">f", max(min(value, 3e38), -3e38) if math.isfinite(value) else value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">cq", b"L", len(data)) + data


def _model(document: Any) -> Any:
    booster = document["learner"]["gradient_booster"]
    return booster["model"] if "model" in booster else booster["gbtree"]["model"]


def _array(document: Any, chance: Random) -> tuple[dict[str, Any], str]:
    """An array of some tree, mostly one that has something in it."""
    tree = chance.choice(_model(document)["trees"])
    keys = [key for key in _TYPES if tree.get(key)] or list(_TYPES)
    return tree, chance.choice(keys if chance.random() < 0.9 else list(_TYPES))


def _hostile(key: str, chance: Random) -> float:
    return chance.choice(_REALS) if _TYPES[key] == "d" else chance.choice(_INTEGERS)


def hostile_entry(document: Any, chance: Random) -> None:
    tree, key = _array(document, chance)
    values = tree.setdefault(key, []) or [0]
    values[chance.randrange(len(values))] = _hostile(key, chance)
    tree[key] = values


def hostile_everywhere(document: Any, chance: Random) -> None:
    tree, key = _array(document, chance)
    tree[key] = [_hostile(key, chance)] * len(tree[key])


def other_length(document: Any, chance: Random) -> None:
    tree, key = _array(document, chance)
    values = tree[key]
    tree[key] = chance.choice([values[:-1], values[: len(values) // 2], values * 2, []])


def shuffled(document: Any, chance: Random) -> None:
    """The right numbers at wrong places: children that make cycles, sets of categories that overlap."""
    tree, key = _array(document, chance)
    chance.shuffle(tree[key])


def neighbour(document: Any, chance: Random) -> None:
    """One whole number a little off: the next node, the next feature."""
    tree, key = _array(document, chance)
    place = chance.randrange(len(tree[key])) if tree[key] else -1
    if place >= 0:
        tree[key][place] += chance.choice([-1, 1])


def swap_children(document: Any, chance: Random) -> None:
    tree = chance.choice(_model(document)["trees"])
    tree["left_children"], tree["right_children"] = tree["right_children"], tree["left_children"]


def other_parameter(document: Any, chance: Random) -> None:
    learner, model = document["learner"], _model(document)
    tree = chance.choice(model["trees"])
    where = chance.choice([learner["learner_model_param"], model["gbtree_model_param"], tree["tree_param"]])
    where[chance.choice(sorted(where))] = chance.choice(_TEXTS)


def other_name(document: Any, chance: Random) -> None:
    learner = document["learner"]
    where = chance.choice([learner["objective"], learner["gradient_booster"]])
    where["name"] = chance.choice(_NAMES)


def other_trees(document: Any, chance: Random) -> None:
    """A tree is gone, there twice, or another one's; the groups and rounds may lie."""
    model = _model(document)
    trees = model["trees"]
    place = chance.randrange(len(trees))
    what = chance.choice(["gone", "twice", "other", "groups", "rounds"])
    if what == "gone":
        del trees[place]
    elif what == "twice":
        trees.append(trees[place])
    elif what == "other":
        trees[place] = chance.choice(trees)
    else:
        key = "tree_info" if what == "groups" else "iteration_indptr"
        model[key][chance.randrange(len(model[key]))] = chance.choice(_INTEGERS)


def no_member(document: Any, chance: Random) -> None:
    """Something is missing, or of another kind."""
    learner, model = document["learner"], _model(document)
    where = chance.choice([document, learner, learner["gradient_booster"], model, chance.choice(model["trees"])])
    key = chance.choice(sorted(where))
    if chance.random() < 0.5:
        del where[key]
    else:
        where[key] = chance.choice([0, "", [], {}, [[]], [{}], -1.5])


XGBOOST = [
    _damaging(change)
    for change in (
        *(hostile_entry, hostile_everywhere, other_length, shuffled, neighbour, swap_children),
        *(other_parameter, other_name, other_trees, no_member),
    )
]
