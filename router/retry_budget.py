"""How many second attempts the traffic bears. Pure.

Contract: an attempt is granted while those of this window and the one before are fewer than `share` of the requests in
both, and `least`, so that a quiet router may retry, too. Without a budget retries multiply the load just when members
are failing. Where nobody asked for longer than a window the requests since count as if they had come evenly, so that a
router that had no failure for hours has the budget of its last seconds. One budget for retries, one for hedges.

Sources: Finagle's RetryBudget, Envoy's retry budgets. A request costs one addition.
"""

from __future__ import annotations


class RetryBudget:
    """`share`: attempts for each request. `least`: attempts in two windows whatever the traffic. Add 1 to `requests`
    for each request. `now`: when it begins.
    """

    __slots__ = ("_before", "_began_s", "_granted", "_least", "_share", "_window_s", "requests")

    def __init__(self, share: float, now: float, *, least: int = 10, window_s: float = 5.0) -> None:
        self._share, self._least, self._window_s = share, least, window_s
        self.requests = self._granted = 0
        self._before = (0.0, 0)
        self._began_s = now

    def grant(self, now: float) -> bool:
        """Whether one more attempt may be made now; it counts as made."""
        if now - self._began_s >= self._window_s:
            self._roll(now)
        requests, granted = self._before
        if self._granted + granted >= self._least + self._share * (self.requests + requests):
            return False
        self._granted += 1
        return True

    def _roll(self, now: float) -> None:
        passed_s = now - self._began_s
        granted = self._granted if passed_s < 2 * self._window_s else 0
        self._before = (self.requests * self._window_s / passed_s, granted)
        self.requests = self._granted = 0
        self._began_s = now
