"""How fast one tenant's loads may fill the memory. Pure.

What was just loaded may not leave yet, and what came in a moment before hasn't shown its worth. So each load of a
tenant that goes through more models than fit would cost another tenant a model that is in use. Hence the bound: of a
full memory what a tenant has loaded in the last second or so takes what other tenants leave, and a quarter in any case.
What is over that waits until the first of it is older.
"""

from __future__ import annotations

from collections import deque

_SHARE = 4  # a quarter
_SWEEP_AT = 1_000


class Intake:
    """See the module."""

    def __init__(self) -> None:
        self._loads: dict[str, deque[tuple[float, int]]] = {}  # when, and bytes; by tenant

    def __len__(self) -> int:
        """How many tenants are known."""
        return len(self._loads)

    def add(self, tenant: str, nbytes: int, now: float, young_s: float) -> None:
        """A load of the tenant begins. `young_s`: how long it counts."""
        if len(self._loads) >= _SWEEP_AT:
            self._loads = {each: loads for each, loads in self._loads.items() if loads[-1][0] + young_s > now}
        self._loads.setdefault(tenant, deque()).append((now, nbytes))

    def wait_s(
        self, tenant: str, nbytes: int, *, capacity_bytes: int, others_bytes: int, now: float, young_s: float
    ) -> float:
        """How long a load has to wait for its tenant's earlier ones; 0 for one that may begin. `others_bytes`: what
        other tenants have in memory.
        """
        loads = self._loads.get(tenant, deque())
        while loads and loads[0][0] + young_s <= now:
            loads.popleft()
        if not loads:
            self._loads.pop(tenant, None)
        over = nbytes + sum(each for _, each in loads)
        over -= max(capacity_bytes // _SHARE, capacity_bytes - others_bytes)
        wait_s = 0.0
        for begun_at, each in loads:
            if over <= 0:
                break
            over -= each
            wait_s = begun_at + young_s - now
        return wait_s
