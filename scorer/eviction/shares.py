"""What each tenant has of the memory, for certain has, and may have. Pure.

Invariants: a tenant's `used_bytes` is the sum over its entries, loaded or reserved, its `idle_bytes` over those that
are loaded and not pinned. `loose_bytes` is no less than what others' loads may take from all tenants. Nothing is kept
of tenants without entries and limits.
"""

from __future__ import annotations

from math import inf
from typing import Any

from scorer.eviction.ring import Ring


class Share:
    """One tenant's. `max_bytes` 0 for no limit. `least_bytes`: no entry is smaller."""

    __slots__ = (
        "guaranteed_bytes", "idle_bytes", "least_bytes", "loose_bytes", "max_bytes", "ring", "tenant", "used_bytes",
    )  # fmt: skip

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.used_bytes = self.idle_bytes = self.loose_bytes = 0
        self.guaranteed_bytes = self.max_bytes = 0
        self.least_bytes: float = inf
        self.ring: Ring[Any] = Ring()

    def loose(self, idle_bytes: int) -> int:
        """What others' loads may take from it at most, if so much of it is idle."""
        loose = min(idle_bytes, self.used_bytes - self.guaranteed_bytes)
        return loose if loose >= self.least_bytes else 0


class Shares:
    """See the module."""

    def __init__(self) -> None:
        self.loose_bytes = 0
        self._shares: dict[str, Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, tenant: str) -> Share:
        """The tenant's; a new one is kept from its first `change` on."""
        return self._shares.get(tenant) or Share(tenant)

    def change(self, share: Share, *, used: int = 0, idle: int = 0) -> None:
        """Add to a tenant's bytes; call it, too, when its limits have changed."""
        share.used_bytes += used
        share.idle_bytes += idle
        if not share.used_bytes:
            share.least_bytes = inf
        loose = share.loose(share.idle_bytes)
        self.loose_bytes += loose - share.loose_bytes
        share.loose_bytes = loose
        if not (share.used_bytes or len(share.ring) or share.guaranteed_bytes or share.max_bytes):
            self._shares.pop(share.tenant, None)
        else:
            self._shares[share.tenant] = share

    def clear(self) -> None:
        """All entries have left; limits stay."""
        for share in list(self._shares.values()):
            share.ring = Ring()
            self.change(share, used=-share.used_bytes, idle=-share.idle_bytes)


class Room:
    """How many bytes may be free for a tenant once others have left, as far as sums tell: never less than can be."""

    def __init__(self, shares: Shares, own: Share, free_bytes: int) -> None:
        self._own = own
        self._idle: dict[Share, int] = {}
        self._all_bytes = free_bytes + shares.loose_bytes - own.loose_bytes + own.idle_bytes
        self._own_bytes = own.max_bytes - own.used_bytes + own.idle_bytes if own.max_bytes else inf

    def holds(self, nbytes: int) -> bool:
        """Whether it's enough."""
        return nbytes <= self._all_bytes and nbytes <= self._own_bytes

    def add(self, share: Share, idle_bytes: int) -> None:
        """Assume so much more of a tenant to be idle; or less."""
        if share is self._own:
            self._all_bytes += idle_bytes
            self._own_bytes += idle_bytes
            return
        before = self._idle.get(share, share.idle_bytes)
        self._idle[share] = before + idle_bytes
        self._all_bytes += share.loose(before + idle_bytes) - share.loose(before)
