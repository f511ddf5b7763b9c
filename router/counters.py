"""What a router counts, for whoever exposes it, and for its own log.

Counters only grow; a gauge is read when somebody looks. Nothing here costs more than an addition a batch or a failure.
"""

from __future__ import annotations

from collections.abc import Callable

from router.admission import Limit

_WORTH_A_LINE = (
    "refused_rate",
    "refused_concurrency",
    "refused_overload",
    "refused_full",
    "unreachable",
    "budget_empty",
    "stalls",
    "ejections",
)


class Counters:
    """`answers`: that scorers gave. `retries`: attempts after the first that cost budget; `budget_empty`: failures that
    the budget let nobody repeat. `hedges`: second copies sent, `hedges_won`: that answered first. `moved`: items taken
    from stalled links. `stalls`, `ejections`: of links. `unreachable`: requests that ended with UNAVAILABLE.
    `refused_*`: by the tenant's rate or concurrency, by the limit of all, by links that are full.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.retries = 0
        self.budget_empty = 0
        self.hedges = 0
        self.hedges_won = 0
        self.moved = 0
        self.stalls = 0
        self.ejections = 0
        self.unreachable = 0
        self.refused_rate = 0
        self.refused_concurrency = 0
        self.refused_overload = 0
        self.refused_full = 0
        self._gauges: dict[str, Callable[[], float]] = {}

    def refuse(self, limit: Limit) -> None:
        """A request ran into one of the limits."""
        name = f"refused_{limit.value}"
        setattr(self, name, getattr(self, name) + 1)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Show this number, too."""
        self._gauges[name] = read

    def snapshot(self) -> dict[str, float]:
        """All of it now."""
        counts = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**counts, **{name: read() for name, read in self._gauges.items()}}


def what_is_off(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """How much of what an operator should hear of was counted between two snapshots. Pure."""
    grown = {name: now[name] - before.get(name, 0) for name in _WORTH_A_LINE}
    return {name: count for name, count in grown.items() if count}
