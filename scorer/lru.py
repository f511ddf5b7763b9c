"""A least-recently-used cache that is bounded by bytes. Pure.

Invariants:
* `used_bytes` is the sum over all entries, loaded or reserved, and never over `capacity_bytes`;
* bytes are reserved before a value is loaded, and corrected when it is;
* a reserved or pinned entry is never evicted;
* whatever leaves the cache is returned to the caller exactly once; the caller closes it. Nothing is closed here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Entry(Generic[V]):
    __slots__ = ("nbytes", "pins", "value")

    def __init__(self, nbytes: int) -> None:
        self.value: V | None = None  # None while only reserved
        self.nbytes = nbytes
        self.pins = 0


class LruBytes(Generic[K, V]):
    """See the module. All methods take O(1) time, `reserve` and `fill` O(evicted)."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        """Whether it is loaded or reserved."""
        return key in self._entries

    def __len__(self) -> int:
        return sum(entry.value is not None for entry in self._entries.values())

    def get(self, key: K) -> V | None:
        """The loaded value, which becomes the most recently used; None when there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.value is None:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def items(self) -> list[tuple[K, V]]:
        """All loaded values with their keys, the least recently used first."""
        return [(key, entry.value) for key, entry in self._entries.items() if entry.value is not None]

    def reserve(self, key: K, nbytes: int) -> list[V] | None:
        """Make room for a key that is not in the cache: the values evicted for it, or None when even evicting all that
        may go would not free enough; then nothing has changed.
        """
        if key in self._entries:
            raise ValueError(f"{key!r} is in the cache already")
        evicted = self._make_room(nbytes)
        if evicted is not None:
            self._entries[key] = _Entry(nbytes)
            self.used_bytes += nbytes
        return evicted

    def fill(self, key: K, value: V, nbytes: int) -> list[V] | None:
        """Put the value into its reservation, which becomes `nbytes`: the values evicted for what is above the
        reservation, or None when there is no room for that; then nothing has changed.
        """
        entry = self._entries[key]
        if entry.value is not None:
            raise ValueError(f"{key!r} is loaded already")
        evicted = self._make_room(nbytes - entry.nbytes)
        if evicted is not None:
            self.used_bytes += nbytes - entry.nbytes
            entry.value, entry.nbytes = value, nbytes
            self._entries.move_to_end(key)
        return evicted

    def remove(self, key: K) -> V | None:
        """Take out a reservation or a value that nobody has pinned; returns the value."""
        if self._entries[key].pins:
            raise ValueError(f"{key!r} is pinned")
        return self._drop(key)

    def pin(self, key: K) -> None:
        """Keep a loaded value from being evicted until `unpin`; counts."""
        self._entries[key].pins += 1

    def unpin(self, key: K) -> None:
        """Undo one `pin`."""
        entry = self._entries[key]
        if not entry.pins:
            raise ValueError(f"{key!r} is not pinned")
        entry.pins -= 1

    def is_pinned(self, key: K) -> bool:
        """Whether somebody keeps a loaded value from being evicted."""
        return self._entries[key].pins > 0

    def clear(self) -> list[V]:
        """Take out everything, pinned or not: for the end of the process."""
        values = [entry.value for entry in self._entries.values() if entry.value is not None]
        self._entries.clear()
        self.used_bytes = 0
        return values

    def _make_room(self, nbytes: int) -> list[V] | None:
        """Evict until so many bytes are free."""
        victims = self._victims(nbytes - (self.capacity_bytes - self.used_bytes))
        if victims is None:
            return None
        evicted = [self._drop(victim) for victim in victims]
        return [value for value in evicted if value is not None]

    def _victims(self, needed_bytes: int) -> list[K] | None:
        victims: list[K] = []
        for key, entry in self._entries.items():
            if needed_bytes <= 0:
                break
            if entry.value is not None and not entry.pins:
                victims.append(key)
                needed_bytes -= entry.nbytes
        return victims if needed_bytes <= 0 else None

    def _drop(self, key: K) -> V | None:
        entry = self._entries.pop(key)
        self.used_bytes -= entry.nbytes
        return entry.value
