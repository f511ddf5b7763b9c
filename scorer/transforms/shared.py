"""Vocabularies in memory, once for all models that have the same.

Contract: two tables of equal content are one object as long as a transform holds it; when the last one that uses it
goes, it goes. `SharedTables` is a process's; a transform that is being compiled takes its tables through `Held`, keeps
that, and so knows what it brought into memory. One thread at a time makes tables; any thread may let them go.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

T = TypeVar("T")
Places = dict[str | float, int]
_INT_BYTES = 28


class Table(Generic[T]):
    """`nbytes`: roughly what `content` takes."""

    __slots__ = ("__weakref__", "content", "nbytes")

    def __init__(self, content: T, nbytes: int) -> None:
        self.content = content
        self.nbytes = nbytes


class SharedTables:
    """See the module."""

    def __init__(self) -> None:
        self._tables: WeakValueDictionary[bytes, Table[object]] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def nbytes(self) -> int:
        """Of all that are held now."""
        return sum(table.nbytes for table in list(self._tables.values()))

    def find(self, digest: bytes) -> Table[object] | None:
        """The table of this content, if one is held."""
        return self._tables.get(digest)

    def add(self, digest: bytes, table: Table[object]) -> None:
        """Hold a table as long as somebody else does."""
        self._tables[digest] = table


class Held:
    """The tables of one transform. `added_bytes`: of those that nobody held before."""

    def __init__(self, shared: SharedTables) -> None:
        self._shared = shared
        self._tables: list[Table[object]] = []
        self.added_bytes = 0

    def places(
        self, values: Sequence[str | float], grouped: Sequence[str | float] = (), dropped: int | None = None
    ) -> Places:
        """Place by value: those of `values` in order, without the one at the place `dropped`, which gets -1; all that
        are `grouped` share the place after the last.
        """
        return self._of(("places", values, grouped, dropped), lambda: _places(values, grouped, dropped), _places_bytes)

    def numbers(self, values: Sequence[float]) -> array[float]:
        """The numbers, as 8 bytes each."""
        return self._of(("numbers", values), lambda: array("d", values), sys.getsizeof)

    def _of(self, content: object, build: Callable[[], T], size: Callable[[T], int]) -> T:
        digest = hashlib.sha256(msgspec.json.encode(content)).digest()
        table = self._shared.find(digest)
        if table is None:
            built = build()
            table = Table(built, size(built))
            self._shared.add(digest, table)
            self.added_bytes += table.nbytes
        self._tables.append(table)
        return table.content  # type: ignore[return-value]  # an equal key is of an equal kind


def _places(values: Sequence[str | float], grouped: Sequence[str | float], dropped: int | None) -> Places:
    kept = [value for place, value in enumerate(values) if place != dropped]
    places: Places = {value: place for place, value in enumerate(kept)}
    if dropped is not None:
        places[values[dropped]] = -1
    return places | dict.fromkeys(grouped, len(kept))


def _places_bytes(places: Places) -> int:
    return sys.getsizeof(places) + sum(sys.getsizeof(value) + _INT_BYTES for value in places)
