"""When a failed attempt is tried on another member. Pure.

All attempts of a request share its one deadline. Only UNAVAILABLE is retried: it alone says that this member didn't
answer while another one may. Scoring has no side effects, so an attempt that may have run is retried as well.
"""

from __future__ import annotations

from typing import NamedTuple

from registry.failure import Code


class RetryPolicy(NamedTuple):
    """`max_attempts` counts the first one. `margin_s`: kept back from each deadline passed on, so that an answer in the
    last moment still has the time to travel.
    """

    max_attempts: int = 3
    margin_s: float = 0.002

    def may_retry(self, code: int, attempts: int, candidates: int, now: float, deadline: float) -> bool:
        """Whether to try once more after `attempts` attempts, the last of which failed with gRPC status `code`."""
        if code != Code.UNAVAILABLE or attempts >= min(self.max_attempts, candidates):
            return False
        return self.left_s(now, deadline) > 0

    def left_s(self, now: float, deadline: float) -> float:
        """Seconds that a member may use of a deadline; 0 or less when it's too late to ask."""
        return deadline - now - self.margin_s
