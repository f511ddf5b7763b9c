"""Requests for one model that are predicted together, and their answers taken apart again. Pure.

Contract: rows of a joined prediction stand in the order of the requests, and each request gets the rows of each output
that are its own, as views. Matrices of float32 and float64 become one of float64, which holds both exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest
from scorer.batch import Sink
from scorer.engine import Rows
from scorer.plan import Plan
from scorer.resident import Resident

# A request for a model in memory, and the sink and index of its answer. A plain tuple, since most are joined with none.
Waiting = tuple[ScoreRequest, Plan, Resident, Sink, int]


class Gathering:
    """What has come for models whose requests may be joined, by package, in the order in which each came first.
    `on_new`: called with a package when its first request has come.
    """

    def __init__(self, on_new: Callable[[str], None] | None = None) -> None:
        self._on_new = on_new
        self._groups: dict[str, list[Waiting]] = {}

    def add(self, package: str, waiting: Waiting) -> None:
        """A request has come."""
        group = self._groups.get(package)
        if group is not None:
            group.append(waiting)
            return
        self._groups[package] = [waiting]
        if self._on_new is not None:
            self._on_new(package)

    def take(self) -> Collection[list[Waiting]]:
        """All that has come, by model, and begin anew."""
        groups = self._groups
        if not groups:
            return ()
        self._groups = {}
        return groups.values()


def joining_pays(group: Sequence[Waiting]) -> bool:
    """Whether one prediction for all requests for a model is cheaper than one for each."""
    if len(group) == 1:
        return False
    return sum(request.row_count for request, *_ in group) >= group[0][2].costs.batch_from


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all; each part has the same columns."""
    dense = np.concatenate([part.dense for part in parts])
    names = parts[0].strings
    return Rows(dense, {name: [value for part in parts for value in part.strings[name]] for name in names})


def split_outputs(outputs: Sequence[np.ndarray], counts: Sequence[int]) -> list[list[np.ndarray]]:
    """For each count its rows of every output, in order."""
    split, start = [], 0
    for count in counts:
        end = start + count
        split.append([output[start:end] for output in outputs])
        start = end
    return split
