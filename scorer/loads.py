"""Loads under way: each package once for all who ask, in fair order, and none that is known to fail or to be too late.

Contract: `join` has a version brought in and waits for it. It refuses at once whom the load can't serve in time, while
the load goes on for the next one who asks; a load that failed isn't tried again for a while (`scorer.failed_loads`).
Which load begins when is decided by `scorer.load_queue`. One that finds no room gives its place in the queue back and
asks for another when there may be room; it gives up when its patience, or the time of all who wait, is over.

Invariants: a load belongs to nobody: waiters that go away leave it alone; what holds a place gives it back, however it
ends. At most `WAITERS_PER_TENANT` of a tenant wait at a time, and `WAITERS` of all tenants, with one of each tenant
that has none. Deadlines are times of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container
from itertools import islice
from math import isfinite

from registry.errors import LoadQueueFullError, OverloadedError, ScoreMeshError
from registry.model import ModelVersion
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_DISK
from scorer.churn import Churn
from scorer.failed_loads import FailedLoads
from scorer.load_estimate import LoadEstimate, refusal
from scorer.load_queue import LoadQueue
from scorer.load_run import Run
from scorer.resident import Counts, Load, Resident

AT_ONCE = 8  # fetches that overlap; engines load one after another. A store that hangs for some holds only these.
PATIENCE_S = 2.0
WAITERS_PER_TENANT = 10_000
WAITERS = 50_000
_ANSWER_S = 0.005  # So long before its deadline a waiter is told that there is no room.
_LEAST_WAIT_S = 0.01
_RETRY_AFTER_MS = 200


class Loads:
    """See the module. `load`: fetches and loads a version. `bring`: makes room, calls `load` of this class, and puts
    away what came. `on_disk`: whether the bytes of a version are near. `patience_s`: how long one waits for room.
    """

    def __init__(
        self,
        load: Load,
        bring: Callable[[Run], Awaitable[None]],
        on_disk: Callable[[ModelVersion], bool],
        patience_s: float,
        counts: Counts,
    ) -> None:
        self._load, self._bring, self._on_disk, self._patience_s = load, bring, on_disk, patience_s
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._waiters: Counter[str] = Counter()
        self._parked: dict[str, Run] = {}  # They wait for room; those that have waited longest first.
        self._queue = LoadQueue(AT_ONCE)
        self._estimate = LoadEstimate(AT_ONCE)
        self._failed = FailedLoads()
        self._churn = Churn()
        self.set_weight = self._queue.set_weight
        self.forget_failures = self._failed.forget

    def __contains__(self, package: str) -> bool:
        return package in self._runs

    async def join(self, version: ModelVersion, tenant: str, deadline: float, *, background: bool) -> None:
        """Wait until the version was brought in.

        Raises:
            TooSlowError: the load takes longer than until the deadline.
            LoadQueueFullError: it will be over after the deadline since others come first, or too many wait already.
            OverloadedError: no room.
            ScoreMeshError: what the load raised, or the last one, which isn't long ago.
        """
        run, task = self._run_of(version, tenant, deadline, background)
        self._waiters[tenant] += 1
        try:
            if isfinite(deadline):
                await self._wait(run, task, deadline)
            await asyncio.shield(task)
        finally:
            self._waiters[tenant] -= 1
            if not self._waiters[tenant]:
                del self._waiters[tenant]

    def _run_of(
        self, version: ModelVersion, tenant: str, deadline: float, background: bool
    ) -> tuple[Run, asyncio.Task[None]]:
        """The load to wait for, which is begun where there is none."""
        package = version.package
        try:
            self._check_waiters(tenant)
            if package not in self._runs:
                self._check_failed(package)
                self._begin(version, tenant, background)
            run, task = self._runs[package]
            if not background:
                self._upgrade(run)
            run.deadline = max(run.deadline, deadline)
            if isfinite(deadline):
                self._check_deadline(run, deadline)
        except ScoreMeshError:
            self._counts.refused += 1
            raise
        return run, task

    def _upgrade(self, run: Run) -> None:
        if run.is_background:
            run.is_background = False
            self._counts.upgraded += 1
            self._wake(self._queue.upgrade(run.version.package))

    async def load(self, run: Run) -> Resident:
        """Fetch and load; what it took, or how it failed, is remembered."""
        version = run.version
        self._counts.loads += 1
        try:
            resident = await self._load(version)
        except Exception as error:
            self._counts.failures += 1
            self._failed.add(version.package, version.tenant, error, self._loop.time())
            raise
        self._failed.succeeded(version.package)
        fetch_us, from_disk = resident.fetch_us + resident.verify_us, resident.residency == RESIDENCY_DISK
        self._estimate.learn(version, from_disk=from_disk, fetch_us=fetch_us, engine_us=resident.load_us)
        run.took_us = self._estimate.held_up_us(fetch_us, resident.load_us)
        self._count(run, resident)
        return resident

    def _count(self, run: Run, resident: Resident) -> None:
        counts = self._counts
        counts.queue_us += run.queue_us
        counts.fetch_us += resident.fetch_us
        counts.verify_us += resident.verify_us
        counts.load_us += resident.load_us

    async def wait_for_room(self, run: Run, wait_s: float) -> None:
        """Let others go first until there may be room, after `wait_s` at the latest; then wait for a place again.

        Raises:
            OverloadedError: nobody has time to wait any longer.
        """
        package, now = run.version.package, self._loop.time()
        run.took_us, run.room_in_s = 0.0, wait_s
        until = min(run.asked_at + self._patience_s, max(run.deadline, now))
        if run.is_background or now >= until:
            self._counts.no_room += 1
            raise no_room(wait_s)
        self._counts.parked += 1
        self._parked[package] = run
        run.turn = self._loop.create_future()
        self._wake(self._queue.park(package))
        timer = self._loop.call_at(min(now + max(wait_s, _LEAST_WAIT_S), until), run.wake)
        try:
            await run.wait_turn()
        finally:
            timer.cancel()
            self._parked.pop(package, None)
        run.turn = self._loop.create_future()
        self._wake(self._queue.unpark(package))
        await run.wait_turn()

    def room_changed(self) -> None:
        """There may be room now: the loads that have waited for it longest try again."""
        for run in list(islice(self._parked.values(), AT_ONCE)):
            run.wake()

    def evicted_own(self, run: Run, age_s: float) -> None:
        """A load has pushed out a model of the same tenant that was loaded so long ago."""
        self._churn.evicted_own(run.tenant, age_s, self._loop.time())

    def drop(self, tenant: str, packages: Container[str]) -> list[str]:
        """Give up the loads of a tenant's versions and of these packages, if they haven't begun; returns which."""
        found = [run for run in self._of(tenant, packages) if self._is_waiting(run)]
        for run in found:
            run.is_dropped = True
            run.wake()
        for run in found:
            self._wake(self._queue.finish(run.version.package))
        return [run.version.package for run in found]

    def begun_of(self, tenant: str, packages: Container[str]) -> list[str]:
        """The packages among a tenant's and these whose loads have begun."""
        return [run.version.package for run in self._of(tenant, packages) if not self._is_waiting(run)]

    def _of(self, tenant: str, packages: Container[str]) -> list[Run]:
        runs = [run for run, task in self._runs.values() if not run.is_dropped and not task.done()]
        return [run for run in runs if run.version.tenant == tenant or run.version.package in packages]

    def _is_waiting(self, run: Run) -> bool:
        return run.version.package in self._queue or run.version.package in self._parked

    async def wait(self, packages: Collection[str]) -> None:
        """Wait until the loads of these have ended, however."""
        tasks = [self._runs[package][1] for package in packages if package in self._runs]
        if tasks:
            await asyncio.wait(tasks)

    async def aclose(self) -> None:
        """Stop all loads."""
        tasks = [task for _run, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check_waiters(self, tenant: str) -> None:
        waiting = self._waiters[tenant]
        if waiting >= WAITERS_PER_TENANT or (waiting and self._waiters.total() >= WAITERS):
            text = f"{waiting} requests of tenant {tenant} wait for loads already"
            raise LoadQueueFullError(text, retry_after_ms=_RETRY_AFTER_MS)

    def _check_failed(self, package: str) -> None:
        error = self._failed.find(package, self._loop.time())
        if error is not None:
            raise error

    def _check_deadline(self, run: Run, deadline: float) -> None:
        forecast = self._estimate.forecast(run.version, on_disk=run.on_disk)
        left_us = (deadline - self._loop.time()) * 1e6
        error = refusal(left_us, self._queue.wait_us(run.version.package), run.begun_us, forecast)
        if error is not None:
            raise error

    def _begin(self, version: ModelVersion, tenant: str, background: bool) -> None:
        run = Run(version, tenant, background, self._on_disk(version))
        begun = self._push(run)
        task = self._loop.create_task(self._run(run))
        self._runs[version.package] = run, task
        task.add_done_callback(lambda done: self._land(version.package, done))
        self._wake(begun)

    def _push(self, run: Run) -> list[str]:
        self._queue.slow(run.tenant, self._churn.is_churning(run.tenant, self._loop.time()))
        run.took_us = self._estimate.cost_us(self._estimate.forecast(run.version, on_disk=run.on_disk))
        return self._queue.push(run.version.package, run.tenant, run.took_us, background=run.is_background)

    async def _run(self, run: Run) -> None:
        try:
            await run.wait_turn()
            await self._bring(run)
        finally:
            self._wake(self._queue.finish(run.version.package, run.took_us))

    def _land(self, package: str, task: asyncio.Task[None]) -> None:
        del self._runs[package]
        if not task.cancelled():
            task.exception()  # fetched, so that a load whose waiters have all gone isn't reported as forgotten

    def _wake(self, packages: list[str]) -> None:
        now = self._loop.time()
        for package in packages:
            run, _task = self._runs[package]
            run.begun_at = now
            run.wake()

    async def _wait(self, run: Run, task: asyncio.Task[None], deadline: float) -> None:
        """Wait for the end of a load, or almost until the deadline.

        Raises:
            OverloadedError: it still waits for room then.
        """
        await asyncio.wait({task}, timeout=deadline - _ANSWER_S - self._loop.time())
        if run.version.package in self._parked:
            raise no_room(run.room_in_s)


def no_room(wait_s: float) -> OverloadedError:
    """Everything in memory is in use, or was loaded just now. `wait_s`: until that changes, infinite for who knows."""
    retry_after_ms = max(_RETRY_AFTER_MS, round(wait_s * 1000)) if isfinite(wait_s) else _RETRY_AFTER_MS
    return OverloadedError("all models in memory are in use or were only just loaded", retry_after_ms=retry_after_ms)
