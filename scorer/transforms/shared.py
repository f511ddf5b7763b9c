"""Vocabularies in memory, once for all models that have the same.

Contract: two lookups that are made of equal steps are one object as long as somebody holds it; when the last model that
uses it goes, it goes. One thread at a time.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import msgspec

from registry.transforms import AnyStep


class Lookup:
    """`places`: what each value of a vocabulary becomes. `nbytes`: roughly what it takes."""

    __slots__ = ("__weakref__", "nbytes", "places")

    def __init__(self, places: Mapping[str | float, float]) -> None:
        self.places = places
        self.nbytes = sys.getsizeof(places) + sum(sys.getsizeof(key) + 24 for key in places)


class SharedTables:
    """See the module."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[bytes, Lookup] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def shared_bytes(self) -> int:
        """Of all that are held now."""
        return sum(lookup.nbytes for lookup in self._held.values())

    def of(self, step: AnyStep, build: Callable[[], Mapping[str | float, float]]) -> Lookup:
        """The lookup of a step; made by `build` unless one of an equal step is held."""
        name = hashlib.sha256(msgspec.json.encode(step)).digest()
        lookup = self._held.get(name)
        if lookup is None:
            lookup = self._held[name] = Lookup(build())
        return lookup
