"""A router that lets everything in: no quotas, no shares, no limit. `python -m bench.unguarded_router` takes the
arguments of a router. The benchmark of abuse measures it to show what admission is worth; nothing of the product
imports this.
"""

from __future__ import annotations

from registry.process import end_with
from router import __main__ as router
from router import server
from router.adaptive_limit import AdaptiveLimit
from router.admission import Admission, Gate


class NoAdmission(Admission):
    """Counts what is in flight, and never says no."""

    def __init__(self, _limit: AdaptiveLimit) -> None:
        super().__init__(AdaptiveLimit(first=1 << 30, least=1 << 30, most=1 << 30))

    def admit(self, tenant: str, now: float) -> Gate:
        gate = super().admit(tenant, now)
        assert isinstance(gate, Gate), "nothing limits it"  # noqa: S101
        return gate

    def set_tenant(self, record: object, now: float) -> None:
        """Whatever a tenant's quotas are."""


def main() -> None:
    server.Admission = NoAdmission  # type: ignore[attr-defined,assignment]
    router.main()


if __name__ == "__main__":
    end_with(main)
