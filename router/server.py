"""A router process from start to stop.

Start: it listens at once and says NOT_SERVING until etcd has told who is alive; an etcd that is dead is waited for.
Run: the last view keeps routing whatever happens to etcd.
Stop (SIGTERM): it says NOT_SERVING, goes on serving until no call has come for half a second or `drain_s` is half over,
then refuses new calls with UNAVAILABLE, waits for the running ones, and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from registry.etcd import Etcd, TlsFiles
from registry.front import Front, Method
from registry.health import Health
from registry.keys import Keys
from registry.member_fold import MembersView
from registry.members import follow_members
from registry.server import listen
from router.config import RouterConfig
from router.fleet import Fleet
from router.forward import Forwarder
from router.retry import RetryPolicy

SERVICE = "scoremesh.scoring.v1.ScoringService"
QUIET_S = 0.5
_log = logging.getLogger(__name__)


class Router:
    """The parts of a router, put together."""

    def __init__(self, config: RouterConfig) -> None:
        policy = RetryPolicy()
        self._config = config
        self._draining = False
        self._forwarder = Forwarder(policy, default_timeout_s=config.default_timeout_s)
        self._fleet = Fleet(
            self._forwarder, policy, cluster=config.cluster, replicas=config.replicas, tls=link_tls(config.tls)
        )
        self._health = Health([SERVICE])
        self.front: Front = listen(
            config.listen,
            tls=config.tls,
            front=config.front,
            max_message_bytes=config.max_message_bytes,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Serve inside this context; leaving it drains and stops. Gives the task without which it's of no use."""
        config = self._config
        etcd = Etcd(config.etcd, user=config.etcd_user, password=config.etcd_password, tls=config.etcd_tls)
        self._health.set_ready(False)
        await self.front.start([*methods(self._forwarder), *self._health.methods()])
        follower = asyncio.create_task(follow_members(etcd, Keys(config.cluster), self._on_view))
        try:
            yield follower
        finally:
            await self._drain()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await self.front.stop()
            await self._fleet.aclose()
            await etcd.aclose()

    def _on_view(self, view: MembersView) -> None:
        self._fleet.apply(view)
        if not self._draining:
            self._health.set_ready(True)

    async def _drain(self) -> None:
        self._draining = True
        self._health.set_ready(False)
        _log.info("draining")
        await self.front.quiet(QUIET_S, self._config.drain_s / 2)
        self.front.refuse_new("this router is shutting down; ask another one")
        self._health.end_watches()
        await self.front.idle(self._config.drain_s)


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
