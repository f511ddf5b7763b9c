"""What is in memory, by bytes: what may leave, and what leaves for whom. Pure.

Invariants:
* `used_bytes` is the sum over all entries, loaded or reserved, and never over `capacity_bytes`, but for what may not
  leave when the capacity falls;
* bytes are reserved before a value is loaded, and can only become less when it is;
* a reserved, pinned or just loaded entry is never evicted, nor one for another tenant's sake while its own tenant has
  no more than is guaranteed to it;
* whatever leaves is returned to the caller exactly once; the caller closes it. Nothing is closed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Generic, NamedTuple, TypeVar

JUST_LOADED_S = 1.0
V = TypeVar("V")


class _Entry(Generic[V]):
    __slots__ = ("key", "loaded_at", "nbytes", "pins", "tenant", "uses", "value")

    def __init__(self, key: str, nbytes: int, tenant: str) -> None:
        self.key, self.nbytes, self.tenant = key, nbytes, tenant
        self.value: V | None = None
        self.pins = self.uses = 0
        self.loaded_at = inf  # until it's loaded


class _Limits(NamedTuple):
    guaranteed_bytes: int = 0
    max_bytes: int = 0


class Residents(Generic[V]):
    """See the module."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._entries: dict[str, _Entry[V]] = {}
        self._loaded: dict[str, _Entry[V]] = {}
        self._used: Counter[str] = Counter()
        self._limits: dict[str, _Limits] = {}

    @property
    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._loaded)

    def get(self, key: str) -> V | None:
        entry = self._loaded.get(key)
        if entry is None:
            return None
        entry.uses += 1
        return entry.value

    def find(self, key: str) -> V | None:
        entry = self._loaded.get(key)
        return None if entry is None else entry.value

    def reserve(self, key: str, nbytes: int, *, tenant: str, now: float, background: bool = False) -> list[V] | None:
        if key in self._entries:
            raise ValueError(f"{key!r} is in the cache already")
        victims = self._victims(nbytes, tenant, now, background)
        if victims is None:
            return None
        evicted = [self._drop(victim) for victim in victims]
        self._entries[key] = _Entry(key, nbytes, tenant)
        self.used_bytes += nbytes
        self._used[tenant] += nbytes
        return [value for value in evicted if value is not None]

    def fill(self, key: str, value: V, nbytes: int, *, cost_us: float, now: float) -> list[V]:
        entry = self._entries[key]
        if entry.value is not None:
            raise ValueError(f"{key!r} is loaded already")
        saved = entry.nbytes - nbytes
        self.used_bytes -= saved
        self._used[entry.tenant] -= saved
        entry.value, entry.nbytes, entry.loaded_at = value, nbytes, now
        self._loaded[key] = entry
        return []

    def remove(self, key: str) -> V | None:
        if self._entries[key].pins:
            raise ValueError(f"{key!r} is pinned")
        return self._drop(self._entries[key])

    def pin(self, key: str) -> None:
        self._entries[key].pins += 1

    def unpin(self, key: str) -> None:
        entry = self._entries[key]
        if not entry.pins:
            raise ValueError(f"{key!r} is not pinned")
        entry.pins -= 1

    def is_pinned(self, key: str) -> bool:
        return self._entries[key].pins > 0

    def items(self) -> list[tuple[str, V]]:
        return [(entry.key, entry.value) for entry in self._coldest() if entry.value is not None]

    def clear(self) -> list[V]:
        values = [entry.value for entry in self._loaded.values() if entry.value is not None]
        self._entries.clear()
        self._loaded.clear()
        self._used.clear()
        self.used_bytes = 0
        return values

    def set_limits(self, tenant: str, *, guaranteed_bytes: int = 0, max_bytes: int = 0) -> list[V]:
        self._limits[tenant] = _Limits(guaranteed_bytes, max_bytes)
        leaving: list[V] = []
        for entry in self._coldest():
            if not max_bytes or self._used[tenant] <= max_bytes:
                break
            if entry.tenant == tenant and not entry.pins:
                value = self._drop(entry)
                leaving += [value] if value is not None else []
        return leaving

    def used_by(self, tenant: str) -> int:
        return self._used[tenant]

    def resize(self, capacity_bytes: int, now: float) -> list[V]:
        self._capacity_bytes = capacity_bytes
        leaving: list[V] = []
        for entry in self._coldest():
            if self.used_bytes <= capacity_bytes:
                break
            if self._may_leave(entry, "", now, False):
                value = self._drop(entry)
                leaving += [value] if value is not None else []
        return leaving

    def hottest(self, limit: int = 0) -> list[tuple[str, float]]:
        found = [(entry.key, float(entry.uses)) for entry in reversed(self._coldest())]
        return found[:limit] if limit else found

    def evictable_in_s(self, nbytes: int, tenant: str, now: float) -> float:
        ages = sorted(entry.loaded_at for entry in self._loaded.values() if not entry.pins)
        for loaded_at in ages:
            if self._victims(nbytes, tenant, loaded_at + JUST_LOADED_S, False) is not None:
                return max(0.0, loaded_at + JUST_LOADED_S - now)
        return inf

    def _coldest(self) -> list[_Entry[V]]:
        return sorted(self._loaded.values(), key=lambda entry: entry.uses)

    def _victims(self, nbytes: int, tenant: str, now: float, background: bool) -> list[_Entry[V]] | None:
        limits = self._limits.get(tenant, _Limits())
        over_own = self._used[tenant] + nbytes - limits.max_bytes if limits.max_bytes else 0
        over = self.used_bytes + nbytes - self._capacity_bytes
        victims: list[_Entry[V]] = []
        left = Counter(self._used)
        for entry in self._ordered(tenant, over_own > 0):
            if over <= 0 and over_own <= 0:
                break
            if over <= 0 and entry.tenant != tenant:
                continue
            if not self._may_leave(entry, tenant, now, background, left):
                continue
            victims.append(entry)
            left[entry.tenant] -= entry.nbytes
            over -= entry.nbytes
            over_own -= entry.nbytes if entry.tenant == tenant else 0
        return victims if over <= 0 and over_own <= 0 else None

    def _ordered(self, tenant: str, own_first: bool) -> Iterator[_Entry[V]]:
        coldest = self._coldest()
        if own_first:
            coldest.sort(key=lambda entry: entry.tenant != tenant)
        return iter(coldest)

    def _may_leave(
        self, entry: _Entry[V], tenant: str, now: float, background: bool, left: Counter[str] | None = None
    ) -> bool:
        if entry.pins or now < entry.loaded_at + JUST_LOADED_S or (background and entry.uses):
            return False
        limits = self._limits.get(entry.tenant)
        if limits is None or entry.tenant == tenant:
            return True
        return (left or self._used)[entry.tenant] - entry.nbytes >= limits.guaranteed_bytes

    def _drop(self, entry: _Entry[V]) -> V | None:
        del self._entries[entry.key]
        self._loaded.pop(entry.key, None)
        self.used_bytes -= entry.nbytes
        self._used[entry.tenant] -= entry.nbytes
        return entry.value
