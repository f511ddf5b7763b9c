"""How many requests may be in flight at once in the whole of a router: found by trying. Pure.

Contract: additive increase, multiplicative decrease, judged once a window by what tenants saw in it.

- A tenant is in trouble when its answers took `tolerance` times what is typical of the models they were of, or more
  than a tenth of its requests were dropped (deadline over, scorer overloaded). If more than half of the tenants are,
  the limit falls by a tenth. So no tenant alone, be it with slow models or with deadlines that can't be kept, takes
  room from the others.
- Else it rises by its square root, if it was needed: at least half of it was in flight. Idle never inflates it.
- Only what was answered well, from memory, or was dropped teaches it: not an error that came fast, nor a cold load.

Sources: Netflix's concurrency-limits (AIMD, the three outcomes); V. Jacobson, "Congestion avoidance and control"
(1988).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from typing import NamedTuple

_LEAST_OUTCOMES = 5
_DROPPED_SHARE = 0.1
_BACKOFF = 0.9


class Experience(NamedTuple):
    """What one tenant saw in a window. `stretched`: the stretches of its `answered` requests in sum."""

    answered: int
    stretched: float
    dropped: int

    def is_trouble(self, tolerance: float) -> bool:
        """Whether it suffers."""
        if self.dropped > _DROPPED_SHARE * (self.answered + self.dropped):
            return True
        return self.answered > 0 and self.stretched > tolerance * self.answered


class AdaptiveLimit:
    """`value` is the limit, from `least` to `most`."""

    def __init__(self, *, first: int = 512, least: int = 32, most: int = 16384, tolerance: float = 2.0) -> None:
        self.value = first
        self._least, self._most, self._tolerance = least, most, tolerance

    def judge(self, experiences: Iterable[Experience], most_in_flight: int) -> int:
        """Take a window. `most_in_flight`: how many were in flight at once in it. Returns the limit from now on."""
        heard = [one for one in experiences if one.answered + one.dropped >= _LEAST_OUTCOMES]
        in_trouble = sum(one.is_trouble(self._tolerance) for one in heard)
        if 2 * in_trouble > len(heard):
            self.value = max(self._least, int(self.value * _BACKOFF))
        elif heard and 2 * most_in_flight >= self.value:
            self.value = min(self._most, self.value + isqrt(self.value))
        return self.value
