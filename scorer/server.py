"""One scorer process from start to stop.

Start: it listens, then announces itself in etcd under a lease as warming; it loads what others have in memory and it
will be asked for (`scorer.warming`), then announces that it's ready. Until that is done (etcd may be dead) it says
NOT_SERVING. Run: a lost lease makes it say NOT_SERVING first and announce itself anew second; it goes on scoring all
the while. Stop (SIGTERM): it says NOT_SERVING and announces that it's leaving; routers choose it still, while others
load what it has in memory (`scorer.handover`). Then it announces that it's draining, so that routers choose others; it
goes on serving until no call has come for half a second or `drain_s` is half over; then it refuses new calls with
UNAVAILABLE (a router asks the next member), waits for the running ones, withdraws its announcement and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator

from registry.catalog import Catalog
from registry.errors import EtcdUnavailableError
from registry.etcd import Etcd
from registry.front import Front, Method
from registry.health import Health
from registry.keys import Keys
from registry.members import Announcement, follow_members
from registry.model import Member, MemberState, TenantRecord
from registry.rollout.scorers import ScorerCalls
from registry.server import listen
from registry.store_urls import open_store
from registry.tenant_limits import TenantLimits
from scorer.cache import ModelCache
from scorer.config import ScorerConfig, default_id
from scorer.crash_notes import CrashNotes
from scorer.disk import DiskTier
from scorer.handover import hand_over
from scorer.heartbeat import Heartbeat
from scorer.in_flight import open_in_flight
from scorer.loader import Loader
from scorer.memory_watch import MemoryWatch
from scorer.neighbours import Neighbours
from scorer.placing import Placing, placement_part
from scorer.precaution import Precaution
from scorer.residency import ResidencyService
from scorer.service import ScoringService
from scorer.warming import Warming

SERVICE = "scoremesh.scoring.v1.ScoringService"
RESIDENCY_SERVICE = "scoremesh.scorer.v1.ResidencyService"
QUIET_S = 0.5
# A request that needs etcd waits at most this long for it: a clear answer must come before most callers' deadlines.
_ETCD_TRY_S = 1.0
_ETCD_RETRY_S = 2.0
_log = logging.getLogger(__name__)


class Scorer:
    """The parts of a scorer, put together."""

    def __init__(self, config: ScorerConfig) -> None:
        self._config = config
        self._announced = self._draining = False
        self._health = Health([SERVICE, RESIDENCY_SERVICE])
        self.front: Front = listen(
            config.listen,
            tls=config.tls,
            front=config.front,
            max_message_bytes=config.max_message_bytes * 2,  # a router's batch is larger than one of its requests
        )
        self.member = self._describe()
        self._keys = keys = Keys(config.cluster)
        store = open_store(config.store)
        self._etcd = Etcd(
            config.etcd,
            user=config.etcd_user,
            password=config.etcd_password,
            tls=config.etcd_tls,
            timeout_s=_ETCD_TRY_S,
            retry_s=_ETCD_RETRY_S,
        )
        self._catalog = Catalog(self._etcd, keys, store)
        self._in_flight = open_in_flight(config.in_flight_fd)
        notes = CrashNotes(config.cache_dir)
        self._precaution = Precaution(self._etcd, keys, self.member.id, notes, self._on_quarantined)
        self._loader = Loader(store, DiskTier(config.cache_dir, config.disk_bytes), self._in_flight)
        self._cache = ModelCache(
            config.capacity_bytes,
            self._loader.load,
            self._loader.close_models,
            refusal=self._precaution.refusal,
            on_disk=self._loader.is_on_disk,
        )
        self._memory = MemoryWatch(self._cache, self._loader, config.budget)
        self._limits = TenantLimits(self._etcd, keys, self._on_tenant, placement_part)
        self._service = ScoringService(self._catalog, self._cache, self.member.id, self._in_flight)
        self._residency = ResidencyService(self._catalog, self._cache, self._loader, self._service)
        self._calls = ScorerCalls(self._etcd, keys, tls=config.tls)
        self._neighbours = Neighbours(self._calls, self.member.id)
        self._placing = Placing(self._etcd, keys)
        self._warming = Warming(self._neighbours, self._cache, self._residency, self._placing)
        self._announcement = Announcement(self._etcd, keys, self.member, self._on_announced, ttl_s=config.lease_s)

    def _describe(self) -> Member:
        config = self._config
        address = f"{config.advertise_host}:{self.front.port}"
        return Member(
            id=config.id or default_id(config.advertise_host, self.front.port),
            address=address,
            host=config.host,
            zone=config.zone,
            pool=config.pool,
            capacity_bytes=config.capacity_bytes,
            incarnation=uuid.uuid4().hex,
            state=MemberState.WARMING if config.warm_s else MemberState.READY,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Serve inside this context; leaving it drains and stops. Gives the task without which it's of no use."""
        self._health.set_ready(False)
        await self.front.start([*methods(self._service, self._residency), *self._health.methods()])
        heartbeat = Heartbeat(self._in_flight)
        follower = asyncio.create_task(self._follow())
        announcing = asyncio.create_task(self._announce())
        try:
            yield follower
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
            await self._drain()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await self._close()
            heartbeat.close()

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catalog.run())
            tasks.create_task(self._precaution.run())
            tasks.create_task(self._limits.run())
            tasks.create_task(self._memory.run())
            tasks.create_task(self._follow_members())
            if self._config.warm_s:
                tasks.create_task(self._warming.run())

    async def _follow_members(self) -> None:
        await self._placing.refresh()
        refill_after_s = self._placing.refill_after_s
        await follow_members(self._etcd, self._keys, self._warming.see, refill_after_s=refill_after_s)

    async def _announce(self) -> None:
        await self._precaution.wait_ready()
        self._announcement.start()
        if self._config.warm_s:
            await self._announcement.wait_announced()
            await self._warming.warm_up(self._config.warm_s)
            self._announcement.set_state(MemberState.READY)
            await self._announcement.wait_announced()
            self._show_health()

    async def _drain(self) -> None:
        _log.info("draining")
        self._draining = True
        self._show_health()
        self._residency.leave()
        if self._config.handover_s and self._neighbours.others:
            await self._tell(MemberState.LEAVING)
            await hand_over(self._neighbours, self._cache, self._placing, self._config.handover_s)
        await self._tell(MemberState.DRAINING)
        await self.front.quiet(QUIET_S, self._config.drain_s / 2)
        self.front.refuse_new(f"scorer {self.member.id} is shutting down")
        self._health.end_watches()
        await self.front.idle(self._config.drain_s)
        with contextlib.suppress(EtcdUnavailableError, TimeoutError):
            async with asyncio.timeout(self._config.drain_s / 4):
                await self._announcement.withdraw()

    async def _tell(self, state: MemberState) -> None:
        with contextlib.suppress(EtcdUnavailableError, TimeoutError):
            async with asyncio.timeout(self._config.drain_s / 8):
                self._announcement.set_state(state)
                await self._announcement.wait_announced()

    async def _close(self) -> None:
        await self.front.stop()
        await self._calls.aclose()
        await self._service.aclose()
        await self._residency.aclose()
        await self._announcement.aclose()
        await self._cache.aclose()
        await self._catalog.aclose()
        self._loader.close()
        await self._etcd.aclose()

    def _on_announced(self, announced: bool) -> None:
        _log.info("announced as %s" if announced else "%s is no longer announced", self.member.id)
        self._announced = announced
        self._show_health()

    def _show_health(self) -> None:
        is_ready = self._announcement.member.state is MemberState.READY
        self._health.set_ready(self._announced and is_ready and not self._draining)

    def _on_tenant(self, record: TenantRecord) -> None:
        self._cache.set_limits(record)
        self._placing.set_rule(record)

    def _on_quarantined(self, packages: set[str]) -> None:
        self._residency.forget(packages)


def methods(service: ScoringService, residency: ResidencyService) -> list[Method]:
    """What a scorer serves."""
    return [
        Method(f"/{SERVICE}/Score", service.score),
        Method(f"/{SERVICE}/ScoreBatch", service.score_batch),
        Method(f"/{SERVICE}/StreamScoreBatch", service.stream_score_batch, streaming=True),
        Method(f"/{RESIDENCY_SERVICE}/Prepare", residency.prepare),
        Method(f"/{RESIDENCY_SERVICE}/ListResident", residency.list_resident),
        Method(f"/{RESIDENCY_SERVICE}/GetRolloutStats", residency.get_rollout_stats),
        Method(f"/{RESIDENCY_SERVICE}/Purge", residency.purge),
    ]
