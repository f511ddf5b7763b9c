"""The loaded entries in two segments: the window, in which the newest are left alone, and the main one. Pure.

Contract: what was loaded less than `just_loaded_s` ago is in the window. What leaves the window competes at once with
what was found to be worth least in the main segment; the window itself is touched when nothing else may leave.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice, takewhile
from typing import Generic, TypeVar

from scorer.eviction.entry import Entry
from scorer.eviction.ring import Ring
from scorer.eviction.selection import DOUBTFUL, SAMPLE, Selection

WINDOW = 0.1  # of the capacity
_LOOK_AT = 16 * SAMPLE
V = TypeVar("V")


class Segments(Generic[V]):
    """See the module. Times are in seconds."""

    def __init__(self) -> None:
        self._window: OrderedDict[str, Entry[V]] = OrderedDict()  # in the order in which they were loaded
        self._window_bytes = 0
        self._main: Ring[Entry[V]] = Ring()
        self._doubtful: list[Entry[V]] = []  # some of the main segment, and some that have left

    def add(self, entry: Entry[V]) -> None:
        """It was loaded just now."""
        self._window[entry.key] = entry
        self._window_bytes += entry.nbytes

    def discard(self, entry: Entry[V]) -> None:
        """It has left the memory; its value is None."""
        if self._window.pop(entry.key, None) is None:
            self._main.discard()
        else:
            self._window_bytes -= entry.nbytes

    def clear(self) -> None:
        """All have left."""
        self._window.clear()
        self._window_bytes = 0
        self._main = Ring()
        self._doubtful.clear()

    def just_loaded(self, now: float, just_loaded_s: float) -> Iterator[Entry[V]]:
        """What was loaded less than `just_loaded_s` ago, the newest first."""
        return takewhile(lambda entry: now < entry.loaded_at + just_loaded_s, reversed(self._window.values()))

    def settle(self, now: float, just_loaded_s: float, capacity_bytes: int) -> None:
        """What is too much for the window competes from now on."""
        while self._window_bytes > WINDOW * capacity_bytes and self._leave_window(now, just_loaded_s, 1):
            pass
        if len(self._doubtful) > 4 * DOUBTFUL:
            self._doubtful = nsmallest(DOUBTFUL, self._doubtful, key=lambda entry: entry.worth)

    def choose(self, selection: Selection[V], now: float, just_loaded_s: float, *, is_thorough: bool = True) -> None:
        """Choose until there is room: in the main segment, else the oldest of the window; if it must be, and it's to be
        thorough, look at really all.
        """
        self._doubtful = selection.choose(self._main, self._doubtful, _LOOK_AT)
        while selection.is_short and self._leave_window(now, just_loaded_s, SAMPLE):
            self._doubtful = selection.choose(self._main, self._doubtful, _LOOK_AT)
        if selection.is_short and is_thorough:
            self._doubtful = selection.choose(self._main, self._doubtful, len(self._main))

    def _leave_window(self, now: float, just_loaded_s: float, count: int) -> bool:
        """The oldest leave it, but those just loaded; returns whether any did."""
        oldest = list(islice(self._window.values(), count))
        leaving = [entry for entry in oldest if now >= entry.loaded_at + just_loaded_s]
        for entry in leaving:
            del self._window[entry.key]
            self._window_bytes -= entry.nbytes
            self._main.add(entry)
        self._doubtful += leaving
        return bool(leaving)
