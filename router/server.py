"""A router process from start to stop.

Start: it listens at once and says NOT_SERVING until etcd has told who is alive; an etcd that is dead is waited for.
Run: the last view keeps routing whatever happens to etcd; after `stale_view_s` without a word it warns, and goes on.
Routers announce themselves, so that each enforces its part of the tenants' quotas. Once a minute it logs what is off,
and on SIGUSR1 all that it counts.
Stop (SIGTERM): it says NOT_SERVING, goes on serving until no call has come for half a second or `drain_s` is half over,
then refuses new calls with UNAVAILABLE, waits for the running ones, and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from registry.errors import UnavailableError
from registry.etcd import Etcd, TlsFiles
from registry.front import Front, Method
from registry.health import Health
from registry.keys import Keys
from registry.member_fold import MembersView
from registry.members import Announcement
from registry.model import Member, MemberState, TenantRecord
from registry.placement import Placement
from registry.server import listen
from router.adaptive_limit import AdaptiveLimit
from router.admission import Admission
from router.cluster_view import ClusterView
from router.config import RouterConfig, router_id
from router.counters import Counters
from router.fleet import Fleet
from router.forward import Forwarder
from router.house_keeping import HouseKeeping
from router.link_health import LinkHealth
from router.requests import MAX_BATCH_ITEMS
from router.retry import RetryPolicy

SERVICE = "scoremesh.scoring.v1.ScoringService"
QUIET_S = 0.5
# Two of the largest batches that a caller may send: one alone must never be refused for its size. Less can't hurt
# scorers, and on a busy machine latencies double for a moment for no reason.
_LEAST_IN_FLIGHT = 2 * MAX_BATCH_ITEMS
_log = logging.getLogger(__name__)


class Router:
    """The parts of a router, put together."""

    def __init__(self, config: RouterConfig) -> None:
        policy = RetryPolicy()
        self._config = config
        self._draining = False
        self.counters = Counters()
        self._admission = Admission(AdaptiveLimit(first=_LEAST_IN_FLIGHT, least=_LEAST_IN_FLIGHT, tolerance=3.0))
        self._links = LinkHealth(self.counters)
        self._forwarder = Forwarder(
            policy, self._admission, self._links, self.counters, default_timeout_s=config.default_timeout_s
        )
        self._fleet = Fleet(self._forwarder, self._links, policy, cluster=config.cluster, tls=link_tls(config.tls))
        self._health = Health([SERVICE])
        self.front: Front = listen(
            config.listen,
            tls=config.tls,
            front=config.front,
            max_message_bytes=config.max_message_bytes,
            reuse_port=config.workers > 1,
        )
        self.member = self._describe()
        self._announcement: Announcement | None = None

    def _describe(self) -> Member:
        host = socket.gethostname()
        return Member(
            id=router_id(self._config, self.front.port),
            address=f"{self._config.listen.rpartition(':')[0]}:{self.front.port}",
            host=host,
            zone="",
            pool="",
            capacity_bytes=0,
            incarnation=uuid.uuid4().hex,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Serve inside this context; leaving it drains and stops. Gives the task without which it's of no use."""
        config = self._config
        etcd = Etcd(config.etcd, user=config.etcd_user, password=config.etcd_password, tls=config.etcd_tls)
        keys = Keys(config.cluster)
        view = ClusterView(
            etcd, keys, on_placement=self._on_placement, on_tenant=self._on_tenant, on_routers=self._on_routers
        )
        self._announcement = announcement = Announcement(
            etcd, keys.of_routers(), self.member, _nothing, ttl_s=config.lease_s
        )
        self._health.set_ready(False)
        await self.front.start([*methods(self._forwarder), *self._health.methods()])
        announcement.start()
        follower = asyncio.create_task(view.run())
        house = HouseKeeping(self.counters, self._admission, self._links, view, stale_s=config.stale_view_s)
        try:
            yield follower
        finally:
            await self._drain()
            house.close()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await self.front.stop()
            await self._fleet.aclose()
            with contextlib.suppress(UnavailableError, TimeoutError):
                async with asyncio.timeout(config.drain_s / 4):
                    await announcement.withdraw()
            await announcement.aclose()
            await etcd.aclose()

    def _on_placement(self, view: MembersView, placement: Placement) -> None:
        self._fleet.apply(view, placement)
        if not self._draining:
            self._health.set_ready(True)

    def _on_tenant(self, record: TenantRecord) -> None:
        self._admission.set_tenant(record, asyncio.get_running_loop().time())
        self._forwarder.set_hedging(record.tenant, record.hedge)

    def _on_routers(self, routers: int) -> None:
        self._admission.set_routers(routers, asyncio.get_running_loop().time())

    async def _drain(self) -> None:
        self._draining = True
        self._health.set_ready(False)
        _log.info("draining")
        if self._announcement is not None:
            self._announcement.set_state(MemberState.DRAINING)
        await self.front.quiet(QUIET_S, self._config.drain_s / 2)
        self.front.refuse_new("this router is shutting down; ask another one")
        self._health.end_watches()
        await self.front.idle(self._config.drain_s)


def _nothing(_announced: bool) -> None:
    """A router serves whether it's announced or not."""


def methods(forwarder: Forwarder) -> list[Method]:
    """What a router serves."""
    return [
        Method(f"/{SERVICE}/Score", forwarder.score),
        Method(f"/{SERVICE}/ScoreBatch", forwarder.score_batch),
        Method(f"/{SERVICE}/StreamScoreBatch", forwarder.stream_score_batch, streaming=True),
    ]


def link_tls(tls: TlsFiles | None) -> ssl.SSLContext | None:
    """How to speak to scorers: in plain text, or with TLS and this router's own certificate, against the CA (without
    one, against those that the machine trusts).
    """
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca != Path() else None)
    context.set_alpn_protocols(["h2"])
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context
