"""How much each model is asked for, recent requests counting for more. Pure.

Each request adds `weight` to the demand of its model. Instead of all demands becoming less as time passes, `weight`
becomes more (forward decay: Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009): demands keep their order while nobody
touches them, and a request costs one addition. It doubles in a half-life, which is over when `HALF_LIFE_S` have passed
and as many bytes were loaded as `TURNOVERS` times the memory takes: a quiet night forgets nothing, nor does a flood of
loads.

Invariants: `weight` is at most 2 ** `_MOST_DOUBLINGS`, after which all demands are scaled down. What is remembered of
models that aren't in memory is bounded: the ones noted first are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict

HALF_LIFE_S = 60.0
TURNOVERS = 10.0
REMEMBERED = 4  # models that aren't in memory, for each one that is
_LEAST_REMEMBERED = 1024
_MOST_DOUBLINGS = 400.0


class Demand:
    """See the module."""

    def __init__(self) -> None:
        self.weight = 1.0
        self._doublings = 0.0
        self._seen_at: float | None = None
        self._passed = 0.0  # half-lives of time that no bytes were loaded for yet, one at most
        self._absent: OrderedDict[int, float] = OrderedDict()  # By hash: names of models are long.

    def __len__(self) -> int:
        """Of how many models that aren't in memory the demand is remembered."""
        return len(self._absent)

    def advance(self, now: float, turnover: float) -> float:
        """Age: it is `now`, and so much was loaded since the last time, as a share of the memory. Returns what the
        caller has to multiply all demands with that it holds: nearly always 1.
        """
        if self._seen_at is not None:
            self._passed = min(1.0, self._passed + max(0.0, now - self._seen_at) / HALF_LIFE_S)
        self._seen_at = now
        step = min(self._passed, turnover / TURNOVERS)
        self._passed -= step
        self._doublings += step
        scale = 1.0
        if self._doublings > _MOST_DOUBLINGS:
            scale, self._doublings = 2.0**-self._doublings, 0.0
            for key in self._absent:
                self._absent[key] *= scale
        self.weight = 2.0**self._doublings
        return scale

    def recall(self, key: str) -> float:
        """What is remembered of a model that comes in; it isn't any longer."""
        return self._absent.pop(hash(key), 0.0)

    def remember(self, key: str, demand: float, residents: int) -> None:
        """Remember a model that isn't in memory, together with what is known of it; `residents` are."""
        self._absent[hash(key)] = self._absent.pop(hash(key), 0.0) + demand
        while len(self._absent) > max(_LEAST_REMEMBERED, REMEMBERED * residents):
            self._absent.popitem(last=False)

    def clear(self) -> None:
        """Forget all models that aren't in memory."""
        self._absent.clear()
