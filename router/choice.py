"""Which of a model's members gets the next request: bounded loads over their ranks. Pure.

Contract: a request goes to the first rank unless that has more than its part. A link is over the bound when it has
`least` requests in flight or more, and more than (1+eps) of the mean of all links that aren't ejected. Then:

- a link that is over the bound only since a moment (`patience_s`) keeps its requests: a burst isn't worth a cold copy;
- after that the next rank takes what is above the bound. So a hot model gets a second copy when it needs one, and when
  the first rank has room again nothing goes to the second, which forgets the model when it needs the memory;
- ranks after the replicas take part only while the model itself is hot: its own requests are at least half of what
  its replicas may have. Else what others do to the replicas would scatter it over the whole shard;
- an ejected link (`weight` 0) is passed over as long as another one lives, and the rank after the replicas stands in
  for it. One that comes back (0 < `weight` < 1) takes that part of what it's offered. If all are ejected, any may be
  asked.

Where no link may take it by these rules, the one with the least work (requests in flight times its latency) does.

Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent hashing with bounded loads" (2018). The usual case costs
two comparisons; sums are kept, not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

_SMOOTH = 0.1  # of the latency of a link: about the last 20 answers
_EPISODE_S = 1.0
_FIRST_ANSWERS = 50  # learnt from at once; then one each half a second, so that an overload isn't soon taken for normal
_LEARN_EACH_S = 0.5


class LinkLoad:
    """What is known of one link. `in_flight`: requests sent and unanswered. `latency_s`: smoothed. `weight`: from 0,
    ejected, to 1; `router.outliers` sets it. `fine`: so many in flight are never too many here, whatever the others
    have; for whoever knows that it answers fast.
    """

    __slots__ = ("_credit", "_over_seen_s", "_over_since_s", "fine", "in_flight", "latency_s", "weight")

    def __init__(self) -> None:
        self.in_flight = self.fine = 0
        self.latency_s = 0.0
        self.weight = 1.0
        self._credit = 0.0
        self._over_seen_s = self._over_since_s = -inf

    def observe(self, seconds: float) -> None:
        """Take the latency of an answer."""
        self.latency_s += (seconds - self.latency_s) * _SMOOTH if self.latency_s else seconds

    def takes(self) -> bool:
        """Whether it takes what it's offered now: `weight` of all offers, evenly."""
        if self.weight >= 1.0:
            return True
        self._credit += self.weight
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def is_over_since(self, patience_s: float, now: float) -> bool:
        """Note that it's over the bound; whether it has been for `patience_s`."""
        if now - self._over_seen_s > _EPISODE_S:
            self._over_since_s = now
        self._over_seen_s = now
        return now - self._over_since_s >= patience_s

    @property
    def work_s(self) -> float:
        """About how long one more request would take."""
        return (self.in_flight + 1) * (self.latency_s or 1e-6)


class Route:
    """A model's links by rank, for one membership epoch. `owners`: how many of them are its replicas. `in_flight`: of
    this model alone. `typical_s`: its latency, smoothed over half a minute; take it over from the epoch before.
    """

    __slots__ = ("_learn_at_s", "_learnt", "in_flight", "links", "owners", "typical_s")

    def __init__(self, links: Sequence[LinkLoad], owners: int, typical_s: float = 0.0) -> None:
        self.links = tuple(links)
        self.owners = owners
        self.in_flight = 0
        self.typical_s = typical_s
        self._learnt = _FIRST_ANSWERS if typical_s else 0
        self._learn_at_s = -inf

    def stretch(self, seconds: float, now: float) -> float:
        """The latency of an answer over what is typical of this model, and learn from it. So those who watch links and
        the whole cluster don't take a slow model for a slow machine.
        """
        typical_s = self.typical_s or seconds
        if now >= self._learn_at_s:
            self._learn(seconds, now)
        return seconds / typical_s if typical_s else 1.0

    def _learn(self, seconds: float, now: float) -> None:
        if self._learnt < _FIRST_ANSWERS:
            self._learnt += 1
        else:
            self._learn_at_s = now + _LEARN_EACH_S
        self.typical_s += (seconds - self.typical_s) / self._learnt


class BoundedLoad:
    """Chooses among links, and counts what is on them.

    `eps`: what a link may have above the mean. `least`: requests in flight that are never too many. `patience_s`: how
    long a link may be over the bound before others help.
    """

    def __init__(self, *, eps: float = 0.25, least: int = 16, patience_s: float = 0.05) -> None:
        self._eps, self._least, self._patience_s = eps, least, patience_s
        self._share = 1 + eps
        self.in_flight = 0

    def use(self, links: Iterable[LinkLoad]) -> None:
        """All links of this router, from now on; to be told anew when one is ejected or comes back. What those that
        left have in flight still counts down.
        """
        weights = [link.weight for link in links]
        alive = sum(weight > 0 for weight in weights) or len(weights) or 1
        self._share = (1 + self._eps) / alive

    def start(self, route: Route, place: int) -> None:
        """A request goes to the link of this rank."""
        route.links[place].in_flight += 1
        route.in_flight += 1
        self.in_flight += 1

    def end(self, route: Route, place: int) -> None:
        """It has been answered there, or given up."""
        route.links[place].in_flight -= 1
        route.in_flight -= 1
        self.in_flight -= 1

    @property
    def limit(self) -> int:
        """Requests in flight from which on a link is over the bound."""
        return max(self._least, int(self._share * (self.in_flight + 1)) + 1)

    def choose(self, route: Route, now: float) -> int:
        """The rank that gets the next request of a route, which has at least one link."""
        first = route.links[0]
        if (first.in_flight < first.fine or first.in_flight < self._least) and first.weight >= 1.0:
            return 0
        return self._choose(route, now)

    def _choose(self, route: Route, now: float) -> int:
        limit, first = self.limit, route.links[0]
        if first.in_flight < limit and first.weight >= 1.0:
            return 0
        left = len(route.links) if self._is_hot(route, limit) else route.owners
        for place, link in enumerate(route.links):
            if link.weight <= 0.0:
                continue
            if link.in_flight >= limit and link.in_flight >= link.fine:
                if not link.is_over_since(self._patience_s, now):
                    return place
            elif link.weight >= 1.0 or link.takes():
                return place
            left -= 1
            if not left:
                break
        return min(self._allowed(route, limit), key=lambda place: route.links[place].work_s)

    def _is_hot(self, route: Route, limit: int) -> bool:
        return 2 * route.in_flight >= limit * route.owners

    def _allowed(self, route: Route, limit: int) -> Sequence[int]:
        """The ranks that may be asked: the living ones, as many as the model has replicas, or all while it's hot."""
        alive = [place for place, link in enumerate(route.links) if link.weight > 0.0]
        return (alive if self._is_hot(route, limit) else alive[: route.owners]) or range(len(route.links))
