"""Whether the trees of an ONNX operator are trees. Pure.

Contract: ONNX Runtime follows cycles for ever, and nothing but a kill ends it; it copies a node once for each of its
parents, descends by recursion, and takes indices as they are. So each list has one entry a node, a node has at most one
parent, no path is longer than `MAX_DEPTH`, and indices of features, classes and targets are inside their bounds. That
there are as many features as the nodes ask for ONNX Runtime checks itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from registry.errors import ArtifactRejectedError
from registry.onnx_wire import Node

TREE_OPERATORS = {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
MAX_DEPTH = 1_000
MAX_OUTPUTS = 10_000

_TREE_ATTRIBUTES = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_featureids")
_LEAF_ATTRIBUTES = {
    "TreeEnsembleClassifier": ("class_treeids", "class_nodeids", "class_ids"),
    "TreeEnsembleRegressor": ("target_treeids", "target_nodeids", "target_ids"),
}
_Key = tuple[int, int]  # tree, node


def check_trees(node: Node) -> None:
    """Check one operator of `TREE_OPERATORS`.

    Raises:
        ArtifactRejectedError: names the tree and what is wrong with it.
    """
    children = _children(node)
    found = list(chain.from_iterable(children.values()))
    for key in found:
        _require(key in children, node, f"tree {key[0]} has a child that does not exist")
    _check_depth(node, children)
    _require(len(found) == len(set(found)), node, "a node has two parents")
    _check_outputs(node, children)


def _children(node: Node) -> Mapping[_Key, tuple[_Key, ...]]:
    """(tree, node) -> the nodes below it, none for a leaf."""
    lists = [_integers(node, name) for name in _TREE_ATTRIBUTES]
    modes = node.attributes["nodes_modes"].strings if "nodes_modes" in node.attributes else []
    _require(len({len(modes), *map(len, lists)}) == 1, node, "its lists of nodes differ in length")
    _require(all(0 <= feature < 2**31 for feature in lists[-1]), node, "an index of a feature is out of range")
    children: dict[_Key, tuple[_Key, ...]] = {
        (tree, number): () if mode == "LEAF" else ((tree, true), (tree, false))
        for tree, number, true, false, _, mode in zip(*lists, modes, strict=True)
    }
    _require(len(children) == len(modes), node, "a node is there twice")
    return children


def _check_depth(node: Node, children: Mapping[_Key, tuple[_Key, ...]]) -> None:
    """Take away the leaves, then what has become a leaf, and so on; what is left lies on or above a cycle."""
    parents: dict[_Key, list[_Key]] = {key: [] for key in children}
    for key, below in children.items():
        for child in below:
            parents[child].append(key)
    waiting = {key: len(below) for key, below in children.items()}
    level = [key for key, count in waiting.items() if not count]
    depth = 0
    while level:
        for key in level:
            del waiting[key]
        level = _freed(level, parents, waiting)
        depth += bool(level)
    if waiting:
        _require(False, node, f"tree {min(waiting)[0]} has a cycle")
    _require(depth <= MAX_DEPTH, node, f"a tree is {depth} nodes deep, at most {MAX_DEPTH} are accepted")


def _freed(level: list[_Key], parents: Mapping[_Key, list[_Key]], waiting: dict[_Key, int]) -> list[_Key]:
    """The nodes whose last child was in `level`."""
    freed = []
    for parent in chain.from_iterable(parents[key] for key in level):
        waiting[parent] -= 1
        if not waiting[parent]:
            freed.append(parent)
    return freed


def _check_outputs(node: Node, children: Mapping[_Key, tuple[_Key, ...]]) -> None:
    """What the leaves give: each names a node of a tree and a class or target."""
    trees, numbers, outputs = (_integers(node, name) for name in _LEAF_ATTRIBUTES[node.operator])
    _require(len(trees) == len(numbers) == len(outputs), node, "its lists of leaves differ in length")
    leaves = all(children.get(key, key) == () for key in zip(trees, numbers, strict=True))
    _require(leaves, node, "a weight is not at a leaf")
    count = _count_outputs(node)
    _require(count <= MAX_OUTPUTS, node, f"it has {count} outputs a row, at most {MAX_OUTPUTS} are accepted")
    inside = all(0 <= output < count for output in outputs)
    _require(inside, node, "an index of a class or target is out of range")


def _count_outputs(node: Node) -> int:
    if node.operator == "TreeEnsembleRegressor":
        return node.attributes["n_targets"].integer if "n_targets" in node.attributes else 1
    labels = [
        node.attributes[name] for name in ("classlabels_int64s", "classlabels_strings") if name in node.attributes
    ]
    return sum(len(label.integers) + len(label.strings) for label in labels)


def _integers(node: Node, name: str) -> list[int]:
    return node.attributes[name].integers if name in node.attributes else []


def _require(holds: bool, node: Node, what: str) -> None:
    if not holds:
        raise ArtifactRejectedError(f"ONNX {node.operator}: {what}")
