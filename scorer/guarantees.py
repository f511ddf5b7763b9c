"""What each tenant has of a scorer's memory for certain, and at most. Pure.

Contract: `set` and `fit` return the models that have to go, to be closed. Guarantees that are more than `_SHARE` of the
memory in sum are all scaled down alike, so that there is always room for those who have none. A maximum is never under
the guarantee.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from registry.model import TenantRecord
from scorer.resident import Resident
from scorer.residents import Residents

_SHARE = 0.9
_log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """Of one tenant; `max_bytes` 0 for no limit."""

    guaranteed_bytes: int = 0
    max_bytes: int = 0

    def scaled(self, scale: float) -> Limits:
        """With so much less guaranteed."""
        guaranteed = int(self.guaranteed_bytes * scale)
        return Limits(guaranteed, max(self.max_bytes, guaranteed) if self.max_bytes else 0)


class Guarantees:
    """See the module."""

    def __init__(self, residents: Residents[Resident]) -> None:
        self._residents = residents
        self._asked: dict[str, Limits] = {}
        self._given: dict[str, Limits] = {}
        self._scale = 1.0

    def guaranteed_bytes(self, tenant: str) -> int:
        """What a tenant has for certain."""
        return self._given.get(tenant, Limits()).guaranteed_bytes

    def max_bytes(self, tenant: str) -> int:
        """What a tenant may have at most; 0 for no limit."""
        return self._given.get(tenant, Limits()).max_bytes

    def set(self, record: TenantRecord) -> list[Resident]:
        """Obey a tenant's settings from now on."""
        limits = Limits(record.guaranteed_bytes, record.max_bytes)
        if limits == Limits():
            self._asked.pop(record.tenant, None)
        else:
            self._asked[record.tenant] = limits
        return self.fit()

    def fit(self) -> list[Resident]:
        """Obey all settings in the memory that there is now."""
        self._tell(self._rescale())
        given = {tenant: limits.scaled(self._scale) for tenant, limits in self._asked.items()}
        changed = {tenant: limits for tenant, limits in given.items() if self._given.get(tenant) != limits}
        changed |= {tenant: Limits() for tenant in self._given.keys() - given.keys()}
        self._given = given
        leaving = [
            self._residents.set_limits(tenant, guaranteed_bytes=limits.guaranteed_bytes, max_bytes=limits.max_bytes)
            for tenant, limits in changed.items()
        ]
        return [resident for some in leaving for resident in some]

    def _rescale(self) -> float:
        """Returns the scale of before."""
        before, asked = self._scale, sum(limits.guaranteed_bytes for limits in self._asked.values())
        self._scale = min(1.0, self._residents.capacity_bytes * _SHARE / asked) if asked else 1.0
        return before

    def _tell(self, before: float) -> None:
        if self._scale < 1.0 <= before:
            _log.warning("tenants have more memory guaranteed than there is: each gets %.0f %%", self._scale * 100)
