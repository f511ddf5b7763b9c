"""Requests for one model that are predicted together. Pure.

Contract: rows of a joined prediction stand in the order of the requests. Matrices of float32 and float64 become one of
float64, which holds both exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

import numpy as np

from scorer.engine import Rows

_Item = TypeVar("_Item")


class Gathering(Generic[_Item]):
    """What has come for models whose requests may be joined, by package, in the order in which each came first.
    `on_new`: called with a package when its first request has come.
    """

    def __init__(self, on_new: Callable[[str], None] | None = None) -> None:
        self._on_new = on_new
        self._groups: dict[str, list[_Item]] = {}

    def add(self, package: str, item: _Item) -> None:
        """A request has come."""
        group = self._groups.get(package)
        if group is not None:
            group.append(item)
            return
        self._groups[package] = [item]
        if self._on_new is not None:
            self._on_new(package)

    def take(self) -> Collection[list[_Item]]:
        """All that has come, by model, and begin anew."""
        groups = self._groups
        if not groups:
            return ()
        self._groups = {}
        return groups.values()


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all; each part has the same columns."""
    dense = np.concatenate([part.dense for part in parts])
    names = parts[0].strings
    return Rows(dense, {name: [value for part in parts for value in part.strings[name]] for name in names})
