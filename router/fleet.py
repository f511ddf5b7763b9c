"""Keeps a link open to every member, and gives the forwarder a fresh placement whenever the membership changes."""

from __future__ import annotations

import asyncio
import logging
from ssl import SSLContext

from registry.member_fold import MembersView
from registry.placement import Placement
from router.channel import Channel
from router.forward import Forwarder
from router.link import PATH, Link
from router.link_health import LinkHealth
from router.retry import RetryPolicy
from router.route_table import RouteTable

_log = logging.getLogger(__name__)
_IDLE_POLL_S = 0.05


class Fleet:
    """Owns the links. A link whose member has left is closed once its work is done, or after `linger_s`."""

    def __init__(
        self,
        forwarder: Forwarder,
        health: LinkHealth,
        policy: RetryPolicy,
        *,
        cluster: str,
        tls: SSLContext | None,
        linger_s: float = 5.0,
    ) -> None:
        self._forwarder = forwarder
        self._health = health
        self._policy = policy
        self._cluster = cluster
        self._tls = tls
        self._linger_s = linger_s
        self._links: dict[str, Link] = {}
        self._processes: dict[str, tuple[str, str]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.view: MembersView | None = None

    def apply(self, view: MembersView, placement: Placement) -> None:
        """Route by this from now on."""
        # A new incarnation gets a new link, even at the old address: the old one may be in the middle of a backoff.
        processes = {member.id: (member.address, member.incarnation) for member in view.members.values()}
        for member_id in [known for known, process in self._processes.items() if processes.get(known) != process]:
            self._retire(self._links.pop(member_id))
        for member_id in processes.keys() - self._links.keys():
            channel = Channel(processes[member_id][0], PATH, ssl=self._tls)
            channel.connect()
            self._links[member_id] = Link(member_id, channel, self._forwarder, self._policy)
        self._health.use(list(self._links.values()))
        why_none = f"no scorer is alive in cluster {self._cluster!r}"
        self._forwarder.use(RouteTable(placement, dict(self._links), why_none))
        if self.view is None or view.epoch != self.view.epoch:
            _log.info("membership epoch %d: %d members", view.epoch, len(view.members))
        self._processes = processes
        self.view = view

    def _retire(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(self._close(link))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._linger_s
        while not link.idle and loop.time() < until:
            await asyncio.sleep(_IDLE_POLL_S)
        await link.aclose()

    async def aclose(self) -> None:
        """Close every link."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, *(link.aclose() for link in self._links.values()), return_exceptions=True)
