"""What others ask of a scorer: load before an alias moves or another scorer leaves, tell what is in memory and what was
seen of rollouts, forget a tenant.

Contract: `prepare`, `list_resident`, `get_rollout_stats` and `purge` are handlers of `registry.front`. What was
prepared stays in memory for `GRACE_S`, so that it isn't evicted again before the alias moves; such models take at most
half of the memory, and give way to those prepared later. What another scorer hands over is kept so, too, but nothing
gives way to it: the hottest come first. A purge is over when a round finds nothing: requests go on meanwhile, and one
that knew a version before may bring it back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial

from registry.catalog import Catalog
from registry.errors import DrainingError, OverloadedError
from registry.front import Call
from registry.model import ModelRef, ModelVersion, check_name
from registry.rollout.loadable import loadable, version_of
from registry.status import failure_of
from scoremesh.scorer.v1.scorer_pb2 import (
    Arm,
    GetRolloutStatsRequest,
    GetRolloutStatsResponse,
    ListResidentRequest,
    ListResidentResponse,
    LoadableVersion,
    Preparation,
    Prepared,
    PrepareRequest,
    PrepareResponse,
    PurgeRequest,
    PurgeResponse,
    ResidentModel,
    RolloutStats,
    Shadow,
)
from scorer.cache import ModelCache
from scorer.loader import Loader
from scorer.requests import parse
from scorer.rollout_tally import ArmTally, RolloutTally, ShadowTally
from scorer.service import ScoringService
from scorer.tasks import Tasks, cancel

GRACE_S = 60.0
_PURGE_ROUNDS = 20


class Grace:
    """Models that are kept in memory for a while. `limit_bytes`: of all of them; those kept longest leave first."""

    def __init__(self, cache: ModelCache, limit_bytes: int, grace_s: float = GRACE_S) -> None:
        self._cache = cache
        self._limit_bytes = limit_bytes
        self._grace_s = grace_s
        self._used_bytes = 0
        self._kept: OrderedDict[str, tuple[int, asyncio.TimerHandle, Callable[[], None]]] = OrderedDict()

    def has_room(self, nbytes: int) -> bool:
        """Whether so much can be kept without ending what is kept."""
        return self._used_bytes + nbytes <= self._limit_bytes

    def begin(self, package: str, nbytes: int) -> None:
        """Keep a model that is in memory; its time begins anew when it's kept already. One that was
        purged is not kept.
        """
        self.end(package)
        while self._kept and self._used_bytes + nbytes > self._limit_bytes:
            self.end(next(iter(self._kept)))
        if nbytes > self._limit_bytes or self._cache.is_leaving(package):
            return
        timer = asyncio.get_running_loop().call_later(self._grace_s, self.end, package)
        self._kept[package] = (nbytes, timer, self._cache.keep(package))
        self._used_bytes += nbytes

    def end(self, package: str) -> None:
        """Keep a model no longer."""
        kept = self._kept.pop(package, None)
        if kept is not None:
            nbytes, timer, release = kept
            timer.cancel()
            self._used_bytes -= nbytes
            release()

    def close(self) -> None:
        """Keep none of them any longer."""
        for package in list(self._kept):
            self.end(package)


class ResidencyService:
    """See the module."""

    def __init__(self, catalog: Catalog, cache: ModelCache, loader: Loader, scoring: ScoringService) -> None:
        self._catalog = catalog
        self._cache = cache
        self._loader = loader
        self._scoring = scoring
        self._grace = Grace(cache, cache.capacity_bytes // 2)
        self._tasks = Tasks()
        self._is_leaving = False

    def prepare(self, call: Call) -> None:
        """ResidencyService.Prepare."""
        request = parse(PrepareRequest, call.payload)
        self._run(call, partial(self._prepare_all, request.preparations))

    def list_resident(self, call: Call) -> None:
        """ResidencyService.ListResident; nothing is said of models that nobody asked for by name yet."""
        limit = parse(ListResidentRequest, call.payload).limit
        found = self._cache.hottest(limit)
        self._run(call, partial(asyncio.to_thread, _list_of, found))  # takes some microseconds a model

    def leave(self) -> None:
        """Take nothing any more that others hand over."""
        self._is_leaving = True

    def get_rollout_stats(self, call: Call) -> None:
        """ResidencyService.GetRolloutStats; nothing is said of rollouts that this scorer saw nothing of."""
        ids = parse(GetRolloutStatsRequest, call.payload).rollout_ids
        found = [(each, tally) for each in ids if (tally := self._scoring.tallies.find(each)) is not None]
        answer = GetRolloutStatsResponse(stats=[_stats_of(each, tally) for each, tally in found])
        call.respond(answer.SerializeToString())

    def purge(self, call: Call) -> None:
        """ResidencyService.Purge."""
        request = parse(PurgeRequest, call.payload)
        if request.tenant:  # Without one only what is named goes.
            check_name("tenant", request.tenant)
        purge = partial(self._purge, request.tenant, set(request.packages), set(request.artifacts))
        self._run(call, purge)

    async def _prepare_all(self, preparations: Collection[Preparation]) -> bytes:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._prepare(preparation)) for preparation in preparations]
        return PrepareResponse(prepared=[task.result() for task in running]).SerializeToString()

    async def _prepare(self, preparation: Preparation) -> Prepared:
        """Load the versions of one preparation, each also when another one failed."""
        is_resident = any(self._cache.holds(package) for package in preparation.where_resident)
        if not preparation.handover and not is_resident:
            return Prepared(not_resident=True)
        answer = Prepared()
        for wanted in preparation.load:
            try:
                await self._load(wanted, handover=preparation.handover)
            except Exception as error:
                failure = failure_of(error)
                if not answer.code:
                    answer = Prepared(code=failure.code, message=f"version {wanted.version}: {failure.message}")
        return answer

    async def _load(self, wanted: LoadableVersion, *, handover: bool) -> None:
        version = version_of(wanted)
        ref = ModelRef(wanted.tenant, wanted.model) if wanted.model else None
        if handover:
            if self._is_leaving:
                raise DrainingError("this scorer is leaving, too")
            await self.take_over(version, ref)
            return
        async with self._cache.borrow(version, ref=ref) as resident:
            self._grace.begin(version.package, resident.nbytes)

    async def take_over(self, version: ModelVersion, ref: ModelRef | None) -> None:
        """Load in the background what another scorer has, and keep it for a while, as far as there is room: what is
        free, and what nobody asks for, of the half of the memory for models that are kept.

        Raises:
            OverloadedError: there is no more room.
            ScoreMeshError: what the load raised.
        """
        cache, grace = self._cache, self._grace
        free_bytes = cache.capacity_bytes - cache.used_bytes
        has_room = version.resident_bytes <= free_bytes or grace.has_room(version.resident_bytes)
        if not has_room and not cache.holds(version.package):
            raise OverloadedError("there is no room for more that another scorer has")
        async with cache.borrow(version, ref=ref, background=True) as resident:
            if grace.has_room(resident.nbytes):
                grace.begin(version.package, resident.nbytes)

    async def _purge(self, tenant: str, packages: Collection[str], artifacts: Collection[str]) -> bytes:
        models = files = 0
        for _ in range(_PURGE_ROUNDS):
            found = self._forget(tenant, packages)
            await self._cache.wait_purged()  # A load that is under way may still write to the disk.
            deleted = await self._loader.purge(tenant, artifacts)
            models, files = models + found, files + deleted
            if not found and not deleted:
                break
        return PurgeResponse(resident_models=models, disk_files=files).SerializeToString()

    def forget(self, packages: Collection[str]) -> None:
        """Drop packages that must not be used any more; what is in use goes after its last use."""
        self._forget("", packages)

    def _forget(self, tenant: str, packages: Collection[str]) -> int:
        """Drop all that is in memory; returns how many models."""
        self._catalog.forget_tenant(tenant)
        self._scoring.forget(tenant, packages)
        found = self._cache.purge(tenant, packages)
        for package in found:
            self._grace.end(package)
        return len(found)

    def _run(self, call: Call, work: Callable[[], Awaitable[bytes]]) -> None:
        """Answer a call from a task, which ends when the caller has gone; loads go on."""
        task = self._tasks.begin(_answer(call, work))
        call.on_cancel = lambda: cancel([task])

    async def aclose(self) -> None:
        """Cancel what is under way, and keep no model in memory any longer."""
        await self._tasks.aclose()
        self._grace.close()


async def _answer(call: Call, work: Callable[[], Awaitable[bytes]]) -> None:
    try:
        call.respond(await work())
    except Exception as error:
        call.fail(failure_of(error))


def _list_of(found: Iterable[tuple[ModelVersion, ModelRef | None, float]]) -> bytes:
    models = [
        ResidentModel(version=loadable(version, ref.model), tenant=ref.tenant, model=ref.model, demand=demand)
        for version, ref, demand in found
        if ref is not None
    ]
    return ListResidentResponse(models=models).SerializeToString()


def _stats_of(rollout_id: str, tally: RolloutTally) -> RolloutStats:
    return RolloutStats(
        rollout_id=rollout_id,
        stable=_arm_of(tally.stable),
        canary=_arm_of(tally.canary),
        shadow=_shadow_of(tally.shadow),
    )


def _arm_of(tally: ArmTally) -> Arm:
    return Arm(
        requests=tally.requests,
        errors=tally.errors,
        score_sum=tally.score_sum,
        score_count=tally.score_count,
        buckets=tally.buckets.counts(),
    )


def _shadow_of(tally: ShadowTally) -> Shadow:
    return Shadow(
        requests=tally.requests,
        errors=tally.errors,
        skipped=tally.skipped,
        abs_difference_sum=tally.abs_difference_sum,
        abs_difference_max=tally.abs_difference_max,
        score_count=tally.score_count,
    )
