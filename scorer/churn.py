"""Tenants whose loads push out models of their own that were only just loaded. Pure.

Such a tenant asks for more models than it has room for: each load undoes another one, and helps nobody. It's told by
`_OFTEN` such evictions, each counting for less as time passes, and no longer when they become rare.
"""

from __future__ import annotations

from math import exp

YOUNG_S = 10.0
_OFTEN = 5.0
_CAPACITY = 1_000


class Churn:
    """See the module. At most `_CAPACITY` tenants are watched."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}  # by tenant; with when it was counted

    def evicted_own(self, tenant: str, age_s: float, now: float) -> None:
        """A load of the tenant has evicted a model of its own that was loaded `age_s` ago."""
        if age_s >= YOUNG_S:
            return
        if tenant not in self._counts and len(self._counts) >= _CAPACITY:
            self._counts = {each: held for each, held in self._counts.items() if self._count(each, now) >= 1}
            if len(self._counts) >= _CAPACITY:
                return
        self._counts[tenant] = (self._count(tenant, now) + 1, now)

    def is_churning(self, tenant: str, now: float) -> bool:
        """Whether it does so again and again."""
        return self._count(tenant, now) >= _OFTEN

    def _count(self, tenant: str, now: float) -> float:
        count, at = self._counts.get(tenant, (0.0, now))
        return count * exp((at - now) / YOUNG_S)
