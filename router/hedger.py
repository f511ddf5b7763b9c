"""Sends what takes long to a second member, for tenants that want it; see `router.hedge` for the rules.

Contract: `plan` is told of each request of such a tenant, `learn` of each answer to one. When a request's time has come
and it's still unanswered, `send` is asked to send it to a member that is known to be warm. One timer for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from router.choice import BoundedLoad
from router.hedge import hedge_at, hedge_place
from router.item import Item
from router.link import Link
from router.retry_budget import RetryBudget
from router.warmth import Warmth

_SHARE = 0.05
_LEAST = 2


class Hedger:
    """See the module. `tenants`: those that want it. `send`: (item, place in its way)."""

    def __init__(self, bounded: BoundedLoad, send: Callable[[Item, int], None]) -> None:
        self.tenants: set[str] = set()
        self._bounded, self._send = bounded, send
        self._loop = asyncio.get_running_loop()
        self._warmth = Warmth()
        self._budget = RetryBudget(_SHARE, self._loop.time(), least=_LEAST)
        self._due: list[tuple[float, int, Item]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def plan(self, item: Item, link: Link) -> None:
        """A request was sent on this link for the first time."""
        self._budget.requests += 1
        at = hedge_at(link.p95, item.sent_at, item.deadline)
        if at is None or len(item.way.links) < 2:
            return
        heappush(self._due, (at, next(self._numbers), item))
        if self._timer is None or at < self._timer.when():
            self._set_timer(at)

    def learn(self, item: Item) -> None:
        """It was answered where it is, so its model is in memory there."""
        way = item.way
        self._warmth.learn((way.tenant, way.model), way.links[item.place].member_id, self._loop.time())

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            item = heappop(self._due)[2]
            if not item.done and item.twin is None and item.place >= 0:
                self._hedge(item, now)
        while self._due and self._due[0][2].done:
            heappop(self._due)
        if self._due:
            self._set_timer(self._due[0][0])

    def _hedge(self, item: Item, now: float) -> None:
        way = item.way
        model = (way.tenant, way.model)
        warm = [self._warmth.is_warm(model, link.member_id, now) for link in way.links]
        tried = [place for place, link in enumerate(way.links) if place == item.place or link.member_id in item.tried]
        place = hedge_place(way.route.links, warm, tried, self._bounded.limit)
        if place is not None and self._budget.grant(now):
            self._send(item, place)
