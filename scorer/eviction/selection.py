"""Chooses what leaves for one load: what is worth least of a sample, until there is room. Pure.

Sampling as Redis does it: for each victim `SAMPLE` more entries are looked at, and those worth least of all that were
seen compete again at the next load ("doubtful"). Entries that come in compete, too, when they leave the window, so what
is asked for once goes before what is asked for often, however small the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from heapq import heappop, heappush, nsmallest
from math import inf
from typing import Generic, TypeVar

from scorer.eviction.entry import Entry
from scorer.eviction.ring import Ring
from scorer.eviction.shares import Share

SAMPLE = 16
DOUBTFUL = 16
V = TypeVar("V")


class Need:
    """What a load needs, of the whole memory and of what its tenant may have; `share` is its tenant's, None for
    nobody's. What was loaded less than `just_loaded_s` before `now` stays, and what has a demand of `demand_below`.
    """

    __slots__ = ("demand_below", "just_loaded_s", "nbytes", "now", "own_bytes", "share")

    def __init__(
        self,
        share: Share | None,
        nbytes: int,
        own_bytes: int,
        now: float,
        just_loaded_s: float,
        demand_below: float = inf,
    ) -> None:
        self.share, self.nbytes, self.own_bytes = share, nbytes, own_bytes
        self.now, self.just_loaded_s, self.demand_below = now, just_loaded_s, demand_below


class Selection(Generic[V]):
    """The entries chosen for one need. Nothing is changed but what a ring looks at next."""

    def __init__(self, need: Need) -> None:
        self._need = need
        self._short, self._own_short = need.nbytes, need.own_bytes
        self._left: Counter[Share] = Counter()
        self._pushed = 0  # Of equal worth, who was seen first goes first.
        self.chosen: dict[Entry[V], None] = {}

    @property
    def is_short(self) -> bool:
        """Whether the memory has too little room yet."""
        return self._short > 0

    @property
    def is_own_short(self) -> bool:
        """Whether the tenant would have too much yet."""
        return self._own_short > 0

    def choose_own(self, ring: Ring[Entry[V]]) -> None:
        """Choose from the tenant's own entries until it may have what it needs, or none is left."""
        heap: list[tuple[float, int, Entry[V]]] = []
        looked = 0
        while self.is_own_short:
            found = ring.look(min(SAMPLE, len(ring) - looked))
            looked += len(found)
            self._push(heap, found)
            if heap:
                self._take(heappop(heap)[2])
            elif not found:
                return

    def choose(self, ring: Ring[Entry[V]], doubtful: Iterable[Entry[V]], look_at: int) -> list[Entry[V]]:
        """Choose from the ring, of which `doubtful` are some entries, until there is room. Gives up after having looked
        at so many in vain. Returns who's doubtful now.
        """
        heap: list[tuple[float, int, Entry[V]]] = []
        known = set(doubtful)
        self._push(heap, doubtful)
        looked, most = 0, min(look_at, len(ring))
        while self.is_short:
            found = ring.look(min(SAMPLE, len(ring) - looked))
            looked += len(found)
            self._push(heap, [entry for entry in found if entry not in known])
            if heap:
                self._take(heappop(heap)[2])
            elif looked >= most:
                break
        return [entry for _worth, _order, entry in nsmallest(DOUBTFUL, heap)]

    def _push(self, heap: list[tuple[float, int, Entry[V]]], entries: Iterable[Entry[V]]) -> None:
        for entry in entries:
            if self._may_leave(entry):
                self._pushed += 1
                heappush(heap, (entry.worth, self._pushed, entry))

    def _may_leave(self, entry: Entry[V]) -> bool:
        need = self._need
        return (
            entry.value is not None
            and not entry.pins
            and need.now >= entry.loaded_at + need.just_loaded_s
            and entry.demand < need.demand_below
            and entry not in self.chosen
            and self._is_spare(entry)
        )

    def _is_spare(self, entry: Entry[V]) -> bool:
        """Whether its tenant has as much as is guaranteed to it without this one, too."""
        share = entry.share
        if share is self._need.share or not share.guaranteed_bytes:
            return True
        return share.used_bytes - self._left[share] - entry.nbytes >= share.guaranteed_bytes

    def _take(self, entry: Entry[V]) -> None:
        if not self._is_spare(entry):  # others of its tenant were chosen meanwhile
            return
        self.chosen[entry] = None
        self._left[entry.share] += entry.nbytes
        self._short -= entry.nbytes
        self._own_short -= entry.nbytes if entry.share is self._need.share else 0
