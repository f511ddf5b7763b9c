"""Which links a router would rather not use, from what becomes of requests on them.

Contract: told of each failure, answer and stall, it keeps the weights that `BoundedLoad` chooses by. `sweep` is to be
called about once a second. What isn't reachable is no matter of weights: a link says so itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from router.choice import BoundedLoad
from router.counters import Counters
from router.link import Link
from router.outliers import Outliers

_STALLED_S = 1.0
# A scorer takes 256 requests as one batch. While it answers fast, that isn't a load worth a second copy of a
# model, and spreading it makes smaller batches, which cost everybody more.
_FAST_S = 0.03
_FINE_IN_FLIGHT = 256
_log = logging.getLogger(__name__)


class LinkHealth:
    """See the module. `bounded`: chooses among the links."""

    def __init__(self, counters: Counters) -> None:
        self.bounded = BoundedLoad()
        self._counters = counters
        self._outliers = Outliers()
        self._links: Collection[Link] = ()
        self._loop = asyncio.get_running_loop()
        counters.gauge("links_ejected", lambda: sum(link.watched.ejected for link in self._links))

    def use(self, links: Collection[Link]) -> None:
        """All links, from now on."""
        self._links = links
        self._outliers.use([link.watched for link in links])
        self._weigh()

    def answered(self, link: Link, stretched: float, count: int) -> None:
        """`count` answers came by a link, `stretched` times what is usual of their models (`Route.stretch`) in sum."""
        link.watched.succeeded(stretched, count)

    def failed(self, link: Link) -> None:
        """A request failed on a link that is broken."""
        if self._outliers.failed(link.watched, self._loop.time()):
            self._on_ejected(link, "its requests fail")

    def stalled(self, link: Link) -> None:
        """A link's scorer says nothing."""
        self._counters.stalls += 1
        _log.warning("scorer %s says nothing; its requests go elsewhere where they can", link.member_id)
        if self._outliers.stalled(link.watched, self._loop.time()):
            self._on_ejected(link, "it says nothing")

    def sweep(self) -> None:
        """Judge all links, and let those come back whose time is over, unless they are stalled still."""
        now = self._loop.time()
        by_watched = {link.watched: link for link in self._links}
        for link in self._links:
            if link.stalled and link.watched.ejected:
                link.watched.until_s = max(link.watched.until_s, now + _STALLED_S)
        for watched in self._outliers.sweep(now):
            self._on_ejected(by_watched[watched], "it does worse than the others")
        for link in self._links:
            link.load.fine = _FINE_IN_FLIGHT if 0.0 < link.load.latency_s < _FAST_S else 0
        self._weigh()

    def _on_ejected(self, link: Link, why: str) -> None:
        self._counters.ejections += 1
        _log.warning("scorer %s is left out for a while: %s", link.member_id, why)
        self._weigh()

    def _weigh(self) -> None:
        self.bounded.use([link.load for link in self._links])
