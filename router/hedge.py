"""When the same request is sent to a second member before the first has answered. Pure.

Contract: only for tenants that want it; only after the link's own 95th percentile, since a fixed delay hedges all that
a slow link has and nothing of a fast one; only to a member that has the model in memory, so that a hedge never makes a
second load; only where that one answers in time; and within a budget. The first answer counts, the other attempt is
cancelled.

Source: J. Dean and L. A. Barroso, "The tail at scale" (2013). The percentile is followed by a step of a fixed ratio
(stochastic approximation, H. Robbins and S. Monro 1951): one comparison and one product for each answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.choice import LinkLoad

_STEP = 0.02
_LEAST_ANSWERS = 100


class Percentile:
    """Follows a percentile of latencies. `seconds` is where it is now; `is_known` says whether enough were seen."""

    __slots__ = ("_down", "_seen", "_up", "seconds")

    def __init__(self, share: float = 0.95) -> None:
        self._up, self._down = 1 + _STEP * share, 1 - _STEP * (1 - share)
        self._seen = 0
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Take the latency of an answer."""
        if self._seen < _LEAST_ANSWERS:
            self._seen += 1
            self.seconds = max(self.seconds, seconds)
        else:
            self.seconds *= self._up if seconds > self.seconds else self._down

    @property
    def is_known(self) -> bool:
        """Whether it's more than a guess."""
        return self._seen >= _LEAST_ANSWERS


def hedge_at(first: Percentile, sent_at: float, deadline: float) -> float | None:
    """When to hedge a request that was sent on this link; None: never, as nobody knows what's usual there, or it would
    be too late.
    """
    at = sent_at + first.seconds
    return at if first.is_known and at + first.seconds <= deadline else None


def hedge_place(links: Sequence[LinkLoad], warm: Sequence[bool], tried: Sequence[int], limit: int) -> int | None:
    """The rank that gets the hedge: the first that is warm, wasn't tried, isn't ejected or on its way back, and has
    fewer than `limit` requests in flight; None: there is none.
    """
    for place, link in enumerate(links):
        if warm[place] and place not in tried and link.weight >= 1.0 and link.in_flight < limit:
            return place
    return None
