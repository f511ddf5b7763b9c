"""A set of entries that is looked at in turn, some at a time. Pure.

`add` and `discard` take O(1) time, `look` as much as it returns, amortised: entries that have left are swept out when
they're more than the others.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Leaving(Protocol):
    """What can be in a ring: it has left when its value is None."""

    @property
    def value(self) -> object | None: ...


E = TypeVar("E", bound=Leaving)
_FEW = 16


class Ring(Generic[E]):
    """See the module. An entry is added once, while it has a value."""

    def __init__(self) -> None:
        self._entries: list[E] = []
        self._hand = 0
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def add(self, entry: E) -> None:
        """Put it where it's looked at last but for those before the hand."""
        self._entries.append(entry)
        self._live += 1

    def discard(self) -> None:
        """One of the entries has left: its value is None."""
        self._live -= 1
        if len(self._entries) > 2 * self._live + _FEW:
            self._hand = sum(entry.value is not None for entry in self._entries[: self._hand])
            self._entries = [entry for entry in self._entries if entry.value is not None]

    def look(self, count: int) -> list[E]:
        """The next entries; each one again only after all others."""
        found: list[E] = []
        wanted = min(count, self._live)
        while len(found) < wanted:
            if self._hand >= len(self._entries):
                self._hand = 0
            entry = self._entries[self._hand]
            self._hand += 1
            if entry.value is not None:
                found.append(entry)
        return found
