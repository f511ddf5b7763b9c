"""The notes of training by which LightGBM computes contributions: how many rows came by each node. Pure.

Contract: `has_counts` says of a tree that was checked (`registry.lightgbm_tree`) whether they are there and make sense:
each node has seen rows, and as many as both of its children. LightGBM divides by them. It also walks the tree
recursively, so that no tree may be deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEAF_COUNT, SPLIT_COUNT = "leaf_count", "internal_count"
MAX_DEPTH = 512


def has_counts(fields: Mapping[str, str]) -> bool:
    """See the module. `fields`: the lines of a tree; one of a single leaf needs no counts."""
    leaves = int(fields["num_leaves"])
    if leaves == 1:
        return True
    if not fields.get(LEAF_COUNT) or not fields.get(SPLIT_COUNT):
        return False
    # Leaf i is -1 - i as a child, which is the place of its count from the end.
    counts = np.concatenate([_integers(fields[SPLIT_COUNT]), _integers(fields[LEAF_COUNT])[::-1]])
    left, right = _integers(fields["left_child"]), _integers(fields["right_child"])
    below = counts[left] + counts[right]
    return bool((counts > 0).all() and (below == counts[: leaves - 1]).all()) and _depth(left, right) <= MAX_DEPTH


def _integers(text: str) -> np.ndarray:
    return np.array(text.split(), np.int64)


def _depth(left: np.ndarray, right: np.ndarray) -> int:
    """Of the deepest split, from 1 on. A child has a greater number than its parent."""
    depths = np.ones(len(left), np.int64)
    for node, children in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        for child in children:
            if child > 0:
                depths[child] = depths[node] + 1
    return int(depths.max())
