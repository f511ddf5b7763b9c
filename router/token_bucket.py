"""A rate with room for bursts. Pure.

Invariant: in any time span of t seconds at most burst + rate * t requests are let through. `now` never runs backwards.
"""

from __future__ import annotations

_MOST_WAIT_S = 60.0


class TokenBucket:
    """`rate`: tokens a second, more than 0. `burst`: how many can be saved up; one at least, so that a low rate lets
    something through. Full at first.
    """

    __slots__ = ("_at_s", "_burst", "_rate", "_refused", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, max(burst, 1.0)
        self._tokens, self._at_s = self._burst, now
        self._refused = 0

    def take(self, now: float) -> bool:
        """Whether one more may go now."""
        self._tokens = min(self._burst, self._tokens + (now - self._at_s) * self._rate)
        self._at_s = now
        if self._tokens < 1.0:
            self._refused += 1
            return False
        self._tokens -= 1.0
        self._refused = 0
        return True

    def change(self, rate: float, burst: float, now: float) -> None:
        """Another rate from now on; what was saved up stays, as far as it has room."""
        self._tokens = min(self._tokens + (now - self._at_s) * self._rate, max(burst, 1.0))
        self._rate, self._burst, self._at_s = rate, max(burst, 1.0), now

    @property
    def wait_s(self) -> float:
        """When it's worth the while of who was refused last to ask again. Each one refused since the last that was let
        through gets a later time, else all would come back together.
        """
        return min((self._refused - self._tokens) / self._rate, _MOST_WAIT_S)
