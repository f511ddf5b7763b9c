"""Links that do worse than the others are left out for a while, and come back slowly. Pure.

Contract: a link is ejected (`LinkLoad.weight` 0) when

- `failures_in_row` requests failed one after the other, or it gives no sign of life (`stalled`): at once;
- in a window with at least `least_answers` of its own the share that failed is more than twice that of all others
  together, and `failed_share` above it: at the next `sweep`;
- in such a window its answers took `slow_factor` times as long as those of the link in the middle of the others, both
  measured by what is typical of each model (`Route.stretch`), and over `slow_s`: at the next `sweep`. Under that there
  is nothing to be won, and what is typical of a model depends on the load under which it was learnt.

Never more than `most_ejected` of all links are, so that what is wrong with all of them ejects few. The time is `base_s`
and doubles with each ejection up to `most_s`; `forgive_s` without another one halves it again. Then the link comes
back: its weight rises from a tenth to 1 in `return_s`, and one failure on the way ejects it anew.

Sources: Envoy's outlier detection; Finagle's failure accrual.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from statistics import median
from typing import NamedTuple

from router.choice import LinkLoad

_FIRST_WEIGHT = 0.1


class OutlierPolicy(NamedTuple):
    """See the module."""

    failures_in_row: int = 5
    least_answers: int = 20
    failed_share: float = 0.2
    slow_factor: float = 3.0
    slow_s: float = 0.03
    most_ejected: float = 0.5
    base_s: float = 2.0
    most_s: float = 120.0
    return_s: float = 10.0
    forgive_s: float = 60.0


class Watched:
    """One link as it's watched. The counts are of the window since the last sweep."""

    __slots__ = ("answered", "failed", "failed_in_row", "level", "link", "returned_s", "stretched", "until_s")

    def __init__(self, link: LinkLoad) -> None:
        self.link = link
        self.answered = self.failed = self.failed_in_row = 0
        self.stretched = 0.0
        self.level = 0
        self.until_s = self.returned_s = -inf

    def succeeded(self, stretched: float, count: int = 1) -> None:
        """`count` answers came, which any status but UNAVAILABLE is; `stretched`: their stretches in sum."""
        self.answered += count
        self.failed_in_row = 0
        self.stretched += stretched

    @property
    def ejected(self) -> bool:
        """Whether it's left out."""
        return self.link.weight <= 0.0


class Outliers:
    """Watches the links of a router. Give it every failure at once, and call `sweep` about once a second."""

    def __init__(self, policy: OutlierPolicy = OutlierPolicy()) -> None:  # noqa: B008 - immutable
        self._policy = policy
        self._watched: list[Watched] = []

    def use(self, watched: Iterable[Watched]) -> None:
        """All links of the router, from now on."""
        self._watched = list(watched)

    def failed(self, one: Watched, now: float) -> bool:
        """A request failed on it as on a link that is broken. True: it's ejected by this."""
        one.failed += 1
        one.failed_in_row += 1
        is_enough = one.failed_in_row >= self._policy.failures_in_row or self._returns(one)
        return is_enough and self._eject(one, now)

    def stalled(self, one: Watched, now: float) -> bool:
        """It was asked for a sign of life and gave none. True: it's ejected by this."""
        return self._eject(one, now)

    def sweep(self, now: float) -> list[Watched]:
        """Judge the window that ends now and begin another; let links come back. Returns whom this ejected."""
        for one in self._watched:
            self._let_return(one, now)
        judged = [one for one in self._watched if not one.ejected and self._is_outlier(one)]
        ejected = [one for one in judged if self._eject(one, now)]
        for one in self._watched:
            one.answered = one.failed = 0
            one.stretched = 0.0
        return ejected

    def _returns(self, one: Watched) -> bool:
        return 0.0 < one.link.weight < 1.0

    def _eject(self, one: Watched, now: float) -> bool:
        ejected = sum(other.ejected for other in self._watched)
        if one.ejected or ejected + 1 > self._policy.most_ejected * len(self._watched):
            return False
        one.link.weight = 0.0
        one.until_s = now + min(self._policy.base_s * 2.0 ** min(one.level, 32), self._policy.most_s)
        one.level += 1
        one.failed_in_row = 0
        return True

    def _let_return(self, one: Watched, now: float) -> None:
        if one.ejected and now >= one.until_s:
            one.returned_s = now
            one.link.weight = _FIRST_WEIGHT
        elif self._returns(one):
            passed = (now - one.returned_s) / self._policy.return_s
            one.link.weight = min(1.0, _FIRST_WEIGHT + (1.0 - _FIRST_WEIGHT) * passed)
        elif one.level and not one.ejected and now - one.returned_s >= self._policy.forgive_s:
            one.level -= 1
            one.returned_s = now

    def _is_outlier(self, one: Watched) -> bool:
        if one.answered + one.failed < self._policy.least_answers:
            return False
        others = [other for other in self._watched if other is not one and not other.ejected]
        return self._fails_more(one, others) or self._is_slower(one, others)

    def _fails_more(self, one: Watched, others: Iterable[Watched]) -> bool:
        failed = answered = 0
        for other in others:
            failed += other.failed
            answered += other.answered
        usual = failed / (failed + answered) if failed + answered else 0.0
        return one.failed / (one.failed + one.answered) > self._policy.failed_share + 2 * usual

    def _is_slower(self, one: Watched, others: Iterable[Watched]) -> bool:
        usual = [other.stretched / other.answered for other in others if other.answered >= self._policy.least_answers]
        if not usual or not one.answered or one.link.latency_s <= self._policy.slow_s:
            return False
        return one.stretched / one.answered > self._policy.slow_factor * median(usual)
