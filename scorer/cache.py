"""The models in memory: borrow one, and it's loaded if it must be.

Contract: `peek` answers at once; what it returns may be used until the next await. `borrow` waits for the load, which
one task does for all who ask, and keeps the model from being evicted until it's given back; whether it's loaded, when
and for whom first is decided by `scorer.loads`, what leaves for it by `scorer.residents`. `purge` drops a tenant's
models: at once, or after their last use.

Invariants: every loaded model is given away to be closed exactly once, after its last use; the bytes of all models,
loaded and being loaded, stay within the capacity, what a model takes counting as at least a quarter and at most the
whole of what was reserved for it; a waiter that goes away leaves the load alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterable
from math import inf

from registry.errors import ModelUnusableError, OverloadedError, ScoreMeshError
from registry.model import ModelRef, ModelVersion, TenantRecord
from scorer import residents
from scorer.engine import LoadedModel
from scorer.guarantees import Guarantees
from scorer.intake import Intake
from scorer.load_run import Run
from scorer.loads import PATIENCE_S, Loads
from scorer.resident import Counts, Load, Resident, close_models
from scorer.residents import Residents

__all__ = ["Load", "ModelCache", "Resident"]

PREMIUM_WEIGHT = 4.0
_RETRY_AFTER_MS = 200
_INTAKE_TIMES = 10
_LEAST_SHARE = 4  # a quarter
_LEAST_WAIT_S = 0.001
Refusal = Callable[[ModelVersion], ScoreMeshError | None]


class ModelCache:
    """See the module. `close` gets the models that have left, each exactly once, and closes them, now or later, but
    before any load that begins afterwards. `refusal`: the error for a version that must not be loaded now, None for one
    that may. `on_disk`: whether the bytes of a version are on the local disk. `patience_s`: how long a load waits for
    room.
    """

    def __init__(
        self,
        capacity_bytes: int,
        load: Load,
        close: Callable[[list[LoadedModel]], None] = close_models,
        refusal: Refusal = lambda _: None,
        on_disk: Callable[[ModelVersion], bool] = lambda _: False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._refusal = refusal
        self._most_bytes = capacity_bytes
        self._residents: Residents[Resident] = Residents(capacity_bytes)
        self._close_models = close
        self._loop = asyncio.get_running_loop()
        self.counts = Counts()
        self._loads = Loads(load, self._bring, on_disk, patience_s, self.counts)
        self._guarantees = Guarantees(self._residents)
        self._intake = Intake()
        self._refs: dict[str, ModelRef] = {}
        self._waiting: Counter[str] = Counter()
        self._purged: set[str] = set()  # Packages in use, or being loaded, that go after their last use.
        self.peek = self._residents.get

    @property
    def capacity_bytes(self) -> int:
        """What all models may take now."""
        return self._residents.capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of all models, loaded and being loaded."""
        return self._residents.used_bytes

    def __len__(self) -> int:
        return len(self._residents)

    def holds(self, package: str) -> bool:
        """Whether it's loaded or is to be."""
        return package in self._residents or package in self._loads

    def hottest(self, limit: int) -> list[tuple[ModelVersion, ModelRef | None, float]]:
        """The loaded models with most demand, the hottest first: version, name where one is known, and demand."""
        found = []
        for package, demand in self._residents.hottest(limit):
            resident = self._residents.find(package)
            if resident is not None and resident.version is not None:
                found.append((resident.version, self._refs.get(package), demand))
        return found

    def resize(self, capacity_bytes: int) -> None:
        """Change what all models may take; evicts down to it as far as it may."""
        self._most_bytes = max(self._most_bytes, capacity_bytes)
        self._close(self._residents.resize(capacity_bytes, self._loop.time()))
        self._close(self._guarantees.fit())
        # Where less is guaranteed now, more may go.
        self._close(self._residents.resize(capacity_bytes, self._loop.time()))
        self._loads.room_changed()

    def set_limits(self, record: TenantRecord) -> None:
        """Obey a tenant's settings: memory that is always its own, memory that it may have at most, and its weight
        where loads wait.
        """
        self._loads.set_weight(record.tenant, PREMIUM_WEIGHT if record.premium else 1.0)
        self._close(self._guarantees.set(record))
        self._loads.room_changed()

    def keep(self, package: str) -> Callable[[], None]:
        """Keep a loaded model from being evicted until the function that this returns is called; once."""
        self._residents.pin(package)
        return lambda: self._unpin(package)

    def is_leaving(self, package: str) -> bool:
        """Whether it was purged and goes after its last use."""
        return package in self._purged

    def purge(self, tenant: str, packages: Container[str]) -> list[str]:
        """Drop a tenant's models, and these packages; returns those found. What is in use goes after its last use, and
        isn't found again; loads that haven't begun fail. What is known of failed loads is forgotten.
        """
        self._loads.forget_failures(tenant, packages)
        dropped = self._loads.drop(tenant, packages)
        loaded = [
            package for package, resident in self._residents.items() if resident.tenant == tenant or package in packages
        ]
        found = [each for each in (*loaded, *self._loads.begun_of(tenant, packages)) if each not in self._purged]
        self._purged.update(found)
        self._leave(found)
        return dropped + found

    async def wait_purged(self) -> None:
        """Wait until those purged ones that are being loaded have come in or failed."""
        await self._loads.wait(self._purged)

    def _unpin(self, package: str) -> None:
        self._residents.unpin(package)
        if package in self._purged:
            self._leave([package])
        self._loads.room_changed()

    def _leave(self, packages: Iterable[str]) -> None:
        """Close purged models, but those in use or being loaded."""
        residents = self._residents
        leaving = [each for each in packages if residents.find(each) is not None and not residents.is_pinned(each)]
        self._purged.difference_update(leaving)
        removed = [residents.remove(package) for package in leaving]
        self._close([resident for resident in removed if resident is not None])

    @contextlib.asynccontextmanager
    async def borrow(
        self, version: ModelVersion, *, ref: ModelRef | None = None, deadline: float = inf, background: bool = False
    ) -> AsyncIterator[Resident]:
        """The loaded model, pinned inside the context. `ref`: who asks for it, under which name; `deadline`: of the
        request, a time of the event loop; `background`: nobody waits for it.

        Raises:
            ModelUnusableError: it can't be loaded, now or later.
            TooSlowError: the load it needs can't be over before the deadline; it goes on.
            LoadQueueFullError: nor is it since others come first; or too many of the tenant's loads wait already.
            OverloadedError: there is no room, since everything in memory is in use.
            StoreUnavailableError: its bytes can't be fetched now.
        """
        residents = self._residents
        resident = residents.find(version.package) if background else residents.get(version.package)
        if resident is None:
            tenant = ref.tenant if ref is not None else version.tenant
            resident = await self._wait_for(version, tenant, deadline, background)
        else:
            self._residents.pin(version.package)
        try:
            if ref is not None:
                self._refs[version.package] = ref
            yield resident
        finally:
            self._unpin(version.package)

    async def _wait_for(self, version: ModelVersion, tenant: str, deadline: float, background: bool) -> Resident:
        """Join the load, and pin what it brought.

        Between the end of the load and the moment when a waiter runs, another load may ask for room. So the load pins
        the model once for all waiters, and the last waiter takes that pin away after it has set its own.
        """
        refusal = self._refusal(version)
        if refusal is not None:
            raise refusal
        package = version.package
        if not background:
            self._residents.missed(package)
        self._waiting[package] += 1
        try:
            await self._loads.join(version, tenant, deadline, background=background)
            resident = self._residents.find(package)
            if resident is None:
                raise OverloadedError("the model was evicted before it could be used", retry_after_ms=_RETRY_AFTER_MS)
            self._residents.pin(package)
            return resident
        finally:
            self._waiting[package] -= 1
            if not self._waiting[package]:
                del self._waiting[package]
                if self._residents.find(package) is not None:
                    self._unpin(package)

    async def _bring(self, run: Run) -> None:
        """Reserve, load, fill. Nobody may have filled it meanwhile: loads have one run a package, and a run only
        starts when the package isn't loaded.
        """
        version, package = run.version, run.version.package
        self._check_size(version)
        while (wait_s := self._reserve(run)) > 0:
            await self._loads.wait_for_room(run, wait_s)
        try:
            resident = await self._loads.load(run)
        except BaseException:
            self._residents.remove(package)
            self._purged.discard(package)
            self._loads.room_changed()
            raise
        self._fill(run, resident)
        if self._waiting[package]:
            self._residents.pin(package)
        elif package in self._purged:
            self._leave([package])
        self._loads.room_changed()

    def _check_size(self, version: ModelVersion) -> None:
        needed, most = version.resident_bytes, self._guarantees.max_bytes(version.tenant)
        if needed > self._most_bytes:
            raise ModelUnusableError(f"the model needs {needed} bytes of memory, this scorer has {self._most_bytes}")
        if most and needed > most:
            raise ModelUnusableError(f"the model needs {needed} bytes of memory, its tenant may have {most}")

    def _reserve(self, run: Run) -> float:
        """Reserve room for a load; returns in how many seconds that may succeed, 0 where it has."""
        version, now = run.version, self._loop.time()
        wait_s = self._intake_in_s(version, now)
        if wait_s > 0:
            return wait_s
        nbytes, tenant = version.resident_bytes, version.tenant
        evicted = self._residents.reserve(version.package, nbytes, tenant=tenant, now=now, background=run.is_background)
        if evicted is None:
            return max(_LEAST_WAIT_S, self._residents.evictable_in_s(nbytes, tenant, now))
        self._intake.add(tenant, nbytes, now, _intake_s())
        for resident in evicted:
            if resident.tenant == tenant:
                self._loads.evicted_own(run, now - resident.loaded_at)
        self._close(evicted)
        return 0.0

    def _intake_in_s(self, version: ModelVersion, now: float) -> float:
        """How long a load has to wait since its tenant has had too much loaded just now; not where there is room for
        it anyway, or it's within what is guaranteed.
        """
        held, nbytes, tenant = self._residents, version.resident_bytes, version.tenant
        used_bytes = held.used_by(tenant)
        guaranteed_bytes = self._guarantees.guaranteed_bytes(tenant)
        if held.used_bytes + nbytes <= held.capacity_bytes or used_bytes + nbytes <= guaranteed_bytes:
            return 0.0
        return self._intake.wait_s(
            tenant,
            nbytes,
            capacity_bytes=held.capacity_bytes,
            others_bytes=held.used_bytes - used_bytes,
            now=now,
            young_s=_intake_s(),
        )

    def _fill(self, run: Run, resident: Resident) -> None:
        version, now = run.version, self._loop.time()
        reserved = version.resident_bytes
        nbytes = min(reserved, max(resident.nbytes, reserved // _LEAST_SHARE))
        resident = resident._replace(
            nbytes=nbytes, tenant=version.tenant, version=version, queue_us=run.queue_us, loaded_at=now
        )
        self._residents.fill(version.package, resident, nbytes, cost_us=resident.cost_us, now=now)

    def _close(self, leaving: list[Resident]) -> None:
        for resident in leaving:
            if resident.version is not None:
                self._refs.pop(resident.version.package, None)
        if leaving:
            self.counts.evictions += len(leaving)
            self._close_models([resident.model for resident in leaving])

    async def aclose(self) -> None:
        """Stop all loads and close all models."""
        await self._loads.aclose()
        self._close_models([resident.model for resident in self._residents.clear()])


def _intake_s() -> float:
    """What a tenant loads in how many seconds is bounded (`scorer.intake`). Longer than a model counts as just loaded:
    what came in before may leave again, but had taken the place of something that was in use.
    """
    return _INTAKE_TIMES * residents.JUST_LOADED_S
