"""What is in memory, by bytes: what may leave, and what leaves for whom. Pure.

What a model is worth is what it would cost to do without it: its demand, times what a load of it takes, by byte (as in
GreedyDual-Size-Frequency). What is worth least leaves first; what has only just come in has a small part of the memory
to itself before it competes (after W-TinyLFU: Einziger, Friedman and Manes, ACM Transactions on Storage, 2017). Demand
is remembered beyond eviction.

Invariants:
* `used_bytes` is the sum over all entries, loaded or reserved, and never over `capacity_bytes`, but for what may not
  leave when the capacity falls; a tenant never gets over its maximum by a load;
* bytes are reserved before a value is loaded, and can only become less when it is;
* a reserved or pinned entry is never evicted; nor is one that was just loaded, but when its tenant's maximum falls;
* nor is one for another tenant's sake when its own tenant would have less than is guaranteed to it;
* whatever leaves is returned to the caller exactly once; the caller closes it. Nothing is closed here.

`get` takes one look-up and one addition. `reserve` looks at a sample for each victim, and at more only where hardly
anything may leave.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import nlargest
from math import inf
from typing import Generic, TypeVar

from scorer.eviction.demand import Demand
from scorer.eviction.entry import Entry
from scorer.eviction.segments import Segments
from scorer.eviction.selection import Need, Selection
from scorer.eviction.shares import Room, Share, Shares

# Who waits for a load has it pinned; this is for who asks again at once. A longer time would fill the memory with
# models that nobody asks for twice: with a second, and 200 loads in it, a memory of 200 models had little else.
JUST_LOADED_S = 0.1
_NO_DEMAND = 0.1  # of a request: the only one was more than three half-lives ago
V = TypeVar("V")


class Residents(Generic[V]):
    """See the module. Times are seconds of one clock, and never go back."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._entries: dict[str, Entry[V]] = {}
        self._loaded: dict[str, Entry[V]] = {}
        self._shares = Shares()
        self._demand = Demand()
        self._segments: Segments[V] = Segments()

    @property
    def capacity_bytes(self) -> int:
        """What all entries may take."""
        return self._capacity_bytes

    def __contains__(self, key: str) -> bool:
        """Whether it is loaded or reserved."""
        return key in self._entries

    def __len__(self) -> int:
        """How many are loaded."""
        return len(self._loaded)

    def get(self, key: str) -> V | None:
        """The loaded value for a request, which is counted; None when there is none, see `missed`."""
        entry = self._loaded.get(key)
        if entry is None:
            return None
        entry.demand += self._demand.weight
        return entry.value

    def find(self, key: str) -> V | None:
        """The loaded value, for who isn't a request."""
        entry = self._loaded.get(key)
        return None if entry is None else entry.value

    def missed(self, key: str) -> None:
        """Count a request for which there is no loaded value."""
        entry = self._entries.get(key)
        if entry is None:
            self._demand.remember(key, self._demand.weight, len(self._loaded))
        else:
            entry.demand += self._demand.weight

    def reserve(self, key: str, nbytes: int, *, tenant: str, now: float, background: bool = False) -> list[V] | None:
        """Make room for a key that isn't here: the values that left for it, or None when what may leave would not free
        enough; then nothing has changed. `background`: only what nobody asks for may leave, and it isn't searched for
        far.
        """
        if key in self._entries:
            raise ValueError(f"{key!r} is in the cache already")
        share = self._shares.of(tenant)
        self._segments.settle(now, JUST_LOADED_S, self._capacity_bytes)
        chosen = self._choose(nbytes, share, now, background)
        if chosen is None:
            return None
        values = self._evict(chosen)
        self._age(now, nbytes)
        self._entries[key] = Entry(key, nbytes, share, self._demand.recall(key))
        self.used_bytes += nbytes
        share.least_bytes = min(share.least_bytes, nbytes)
        self._shares.change(share, used=nbytes)
        return values

    def fill(self, key: str, value: V, nbytes: int, *, cost_us: float, now: float) -> None:
        """Put the value into its reservation, which becomes `nbytes`, no more than it was. `cost_us`: what it took to
        load, and will take again.
        """
        entry = self._entries[key]
        if entry.value is not None:
            raise ValueError(f"{key!r} is loaded already")
        if nbytes > entry.nbytes:
            raise ValueError(f"{key!r} takes {nbytes} bytes, {entry.nbytes} were reserved")
        saved, share = entry.nbytes - nbytes, entry.share
        self.used_bytes -= saved
        share.least_bytes = min(share.least_bytes, nbytes)
        entry.value, entry.nbytes, entry.loaded_at = value, nbytes, now
        entry.us_per_byte = max(1.0, cost_us) / max(1, nbytes)
        self._loaded[key] = entry
        self._segments.add(entry)
        share.ring.add(entry)
        self._shares.change(share, used=-saved, idle=0 if entry.pins else nbytes)

    def remove(self, key: str) -> V | None:
        """Take out a reservation, or a value that nobody has pinned; returns the value. What was asked for in vain is
        remembered.
        """
        entry = self._entries[key]
        if entry.pins:
            raise ValueError(f"{key!r} is pinned")
        if entry.value is None and entry.demand:
            self._demand.remember(key, entry.demand, len(self._loaded))
        return self._drop(entry)

    def pin(self, key: str) -> None:
        """Keep an entry from being evicted until `unpin`; counts."""
        entry = self._entries[key]
        entry.pins += 1
        if entry.pins == 1 and entry.value is not None:
            self._shares.change(entry.share, idle=-entry.nbytes)

    def unpin(self, key: str) -> None:
        """Undo one `pin`."""
        entry = self._entries[key]
        if not entry.pins:
            raise ValueError(f"{key!r} is not pinned")
        entry.pins -= 1
        if not entry.pins and entry.value is not None:
            self._shares.change(entry.share, idle=entry.nbytes)

    def is_pinned(self, key: str) -> bool:
        """Whether somebody keeps it from being evicted."""
        return self._entries[key].pins > 0

    def items(self) -> list[tuple[str, V]]:
        """All loaded values with their keys."""
        return [(key, entry.value) for key, entry in self._loaded.items() if entry.value is not None]

    def clear(self) -> list[V]:
        """Take out everything, pinned or not: for the end of the process."""
        values = [value for _key, value in self.items()]
        for entry in self._entries.values():
            entry.value = None
        for each in (self._entries, self._loaded, self._segments, self._shares, self._demand):
            each.clear()
        self.used_bytes = 0
        return values

    def set_limits(self, tenant: str, *, guaranteed_bytes: int = 0, max_bytes: int = 0) -> list[V]:
        """What others' loads must leave to a tenant, and what it may have at most, 0 for no limit. Returns what has to
        leave for that: all that is over the maximum and isn't pinned or reserved.
        """
        share = self._shares.of(tenant)
        share.guaranteed_bytes, share.max_bytes = guaranteed_bytes, max_bytes
        self._shares.change(share)
        over = share.used_bytes - max_bytes if max_bytes else 0
        selection: Selection[V] = Selection(Need(share, 0, over, inf, 0.0))
        selection.choose_own(share.ring)
        return self._evict(selection.chosen)

    def used_by(self, tenant: str) -> int:
        """Bytes of a tenant's entries, loaded or reserved."""
        return self._shares.of(tenant).used_bytes

    def resize(self, capacity_bytes: int, now: float) -> list[V]:
        """Change what all entries may take. Returns what leaves for that; more may be used than that until what may
        not leave now can.
        """
        self._capacity_bytes = capacity_bytes
        selection: Selection[V] = Selection(Need(None, self.used_bytes - capacity_bytes, 0, now, JUST_LOADED_S))
        self._segments.choose(selection, now, JUST_LOADED_S)
        return self._evict(selection.chosen)

    def hottest(self, limit: int = 0) -> list[tuple[str, float]]:
        """The loaded ones with most demand, the hottest first, with their demand: requests, old ones counting less; all
        of them for 0.
        """
        found = nlargest(limit or len(self._loaded), self._loaded.values(), key=lambda entry: entry.demand)
        return [(entry.key, entry.demand / self._demand.weight) for entry in found]

    def evictable_in_s(self, nbytes: int, tenant: str, now: float) -> float:
        """In how many seconds what was just loaded may have become old enough to make room for so much more; infinite
        if not even then. Takes no longer than there are entries that were just loaded.
        """
        room = Room(self._shares, self._shares.of(tenant), self._capacity_bytes - self.used_bytes)
        if not room.holds(nbytes):
            return inf
        for entry in self._segments.just_loaded(now, JUST_LOADED_S):
            if not entry.pins:
                room.add(entry.share, -entry.nbytes)
                if not room.holds(nbytes):
                    return max(0.0, entry.loaded_at + JUST_LOADED_S - now)
        return 0.0

    def _choose(self, nbytes: int, share: Share, now: float, background: bool) -> Collection[Entry[V]] | None:
        """What has to leave for so many bytes of a tenant's; None when that isn't enough."""
        over = self.used_bytes + nbytes - self._capacity_bytes
        own_over = share.used_bytes + nbytes - share.max_bytes if share.max_bytes else 0
        if over <= 0 and own_over <= 0:
            return ()
        if not Room(self._shares, share, self._capacity_bytes - self.used_bytes).holds(nbytes):
            return None
        demand_below = _NO_DEMAND * self._demand.weight if background else inf
        selection: Selection[V] = Selection(Need(share, over, own_over, now, JUST_LOADED_S, demand_below))
        selection.choose_own(share.ring)
        self._segments.choose(selection, now, JUST_LOADED_S, is_thorough=not background)
        return None if selection.is_short or selection.is_own_short else selection.chosen

    def _age(self, now: float, loaded_bytes: int) -> None:
        scale = self._demand.advance(now, loaded_bytes / max(1, self._capacity_bytes))
        if scale != 1.0:
            for entry in self._entries.values():
                entry.demand *= scale

    def _evict(self, chosen: Collection[Entry[V]]) -> list[V]:
        for entry in chosen:
            self._demand.remember(entry.key, entry.demand, len(self._loaded))
        values = [self._drop(entry) for entry in chosen]
        return [value for value in values if value is not None]

    def _drop(self, entry: Entry[V]) -> V | None:
        del self._entries[entry.key]
        self.used_bytes -= entry.nbytes
        value, entry.value = entry.value, None
        if value is not None:
            del self._loaded[entry.key]
            self._segments.discard(entry)
            entry.share.ring.discard()
        self._shares.change(entry.share, used=-entry.nbytes, idle=-entry.nbytes if value is not None else 0)
        return value
