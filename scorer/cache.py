"""The models in memory: borrow one, and it's loaded if it must be.

Contract: `peek` answers at once; what it returns may be used until the next await. `borrow` waits for the load, which
one task does for all who ask, and keeps the model from being evicted until it's given back. `purge` drops a tenant's
models: at once, or after their last use.

Invariants: every loaded model is closed exactly once, after its last use; the bytes of all models, loaded and being
loaded, stay within the budget, one that turns out larger than was said included: others go for it, or it does; a waiter
that goes away leaves the load alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable
from typing import NamedTuple

from registry.errors import ModelUnusableError, OverloadedError, ScoreMeshError
from registry.flight import Flight
from registry.model import ModelSchema, ModelVersion
from scorer.engine import LoadedModel
from scorer.lru import LruBytes

_RETRY_AFTER_MS = 200


class Resident(NamedTuple):
    """A loaded model, and how it came in. `residency`: the value of scoremesh.scoring.v1.Residency for the request that
    had to wait for it. `tenant`: whose it is; filled in by the cache.
    """

    model: LoadedModel
    schema: ModelSchema
    nbytes: int
    residency: int
    fetch_us: int
    load_us: int
    tenant: str = ""


Load = Callable[[ModelVersion], Awaitable[Resident]]


class ModelCache:
    """See the module. `on_evicted` is called after models were closed, with their number."""

    def __init__(self, capacity_bytes: int, load: Load, on_evicted: Callable[[int], None]) -> None:
        self.capacity_bytes = capacity_bytes
        self._lru: LruBytes[str, Resident] = LruBytes(capacity_bytes)
        self._load = load
        self._on_evicted = on_evicted
        self._flight: Flight[str, None] = Flight()
        self._waiting: Counter[str] = Counter()
        self._loading: dict[str, str] = {}  # The tenant of each package that is being loaded.
        self._purged: set[str] = set()  # Packages in use, or being loaded, that go after their last use.
        self.peek = self._lru.get

    @property
    def used_bytes(self) -> int:
        """Bytes of all models, loaded and being loaded."""
        return self._lru.used_bytes

    def __len__(self) -> int:
        return len(self._lru)

    def holds(self, package: str) -> bool:
        """Whether it's loaded or being loaded."""
        return package in self._lru or package in self._flight

    def keep(self, package: str) -> Callable[[], None]:
        """Keep a loaded model from being evicted until the function that this returns is called; once."""
        self._lru.pin(package)
        return lambda: self._unpin(package)

    def is_leaving(self, package: str) -> bool:
        """Whether it was purged and goes after its last use."""
        return package in self._purged

    def purge(self, tenant: str, packages: Container[str]) -> list[str]:
        """Drop a tenant's models, and these packages; returns those found. What is in use goes after its last use, and
        isn't found again.
        """
        owners = {package: resident.tenant for package, resident in self._lru.items()} | self._loading
        owners = {package: owner for package, owner in owners.items() if package not in self._purged}
        found = [package for package, owner in owners.items() if owner == tenant or package in packages]
        self._purged.update(found)
        self._leave(found)
        return found

    async def wait_purged(self) -> None:
        """Wait until those purged ones that are being loaded have come in or failed."""
        for package in self._purged & self._loading.keys():
            with contextlib.suppress(Exception):
                await self._flight.join(package)

    def _unpin(self, package: str) -> None:
        self._lru.unpin(package)
        if package in self._purged:
            self._leave([package])

    def _leave(self, packages: Iterable[str]) -> None:
        """Close purged models, but those in use or being loaded."""
        leaving = [each for each in packages if self._lru.get(each) is not None and not self._lru.is_pinned(each)]
        self._purged.difference_update(leaving)
        removed = [self._lru.remove(package) for package in leaving]
        self._close([resident for resident in removed if resident is not None])

    @contextlib.asynccontextmanager
    async def borrow(self, version: ModelVersion) -> AsyncIterator[Resident]:
        """The loaded model, pinned inside the context.

        Raises:
            ModelUnusableError: it can't be loaded, now or later.
            OverloadedError: there is no room, since everything in memory is in use.
            StoreUnavailableError: its bytes can't be fetched now.
        """
        resident = self._lru.get(version.package)
        if resident is None:
            resident = await self._wait_for(version)
        else:
            self._lru.pin(version.package)
        try:
            yield resident
        finally:
            self._unpin(version.package)

    async def _wait_for(self, version: ModelVersion) -> Resident:
        """Join the load, and pin what it brought.

        Between the end of the load and the moment when a waiter runs, another load may ask for room. So the load pins
        the model once for all waiters, and the last waiter takes that pin away after it has set its own.
        """
        package = version.package
        self._waiting[package] += 1
        try:
            await self._flight.do(package, lambda: self._bring(version))
            resident = self._lru.get(package)
            if resident is None:
                raise OverloadedError("the model was evicted before it could be used", retry_after_ms=_RETRY_AFTER_MS)
            self._lru.pin(package)
            return resident
        finally:
            self._waiting[package] -= 1
            if not self._waiting[package]:
                del self._waiting[package]
                if self._lru.get(package) is not None:
                    self._unpin(package)

    async def _bring(self, version: ModelVersion) -> None:
        """Reserve, load, fill. Nobody may have filled it meanwhile: the flight has one run a package, and a run only
        starts when the package isn't loaded.
        """
        package = version.package
        self._close(self._reserve(version))
        self._loading[package] = version.tenant
        try:
            resident = await self._load(version)
        except BaseException:
            self._lru.remove(package)
            self._purged.discard(package)
            raise
        finally:
            del self._loading[package]
        self._fill(package, resident._replace(tenant=version.tenant))
        if self._waiting[package]:
            self._lru.pin(package)
        elif package in self._purged:
            self._leave([package])

    def _reserve(self, version: ModelVersion) -> list[Resident]:
        evicted = self._lru.reserve(version.package, version.resident_bytes)
        if evicted is None:
            raise self._no_room(version.resident_bytes)
        return evicted

    def _fill(self, package: str, resident: Resident) -> None:
        evicted = self._lru.fill(package, resident, resident.nbytes)
        if evicted is None:
            self._lru.remove(package)
            self._purged.discard(package)
            self._close([resident])
            raise self._no_room(resident.nbytes)
        self._close(evicted)

    def _no_room(self, nbytes: int) -> ScoreMeshError:
        if nbytes > self._lru.capacity_bytes:
            return ModelUnusableError(
                f"the model needs {nbytes} bytes of memory, this scorer has {self._lru.capacity_bytes}"
            )
        return OverloadedError("all models in memory are in use or being loaded", retry_after_ms=_RETRY_AFTER_MS)

    def _close(self, leaving: list[Resident]) -> None:
        for resident in leaving:
            resident.model.close()
        if leaving:
            self._on_evicted(len(leaving))

    async def aclose(self) -> None:
        """Stop all loads and close all models."""
        await self._flight.aclose()
        for resident in self._lru.clear():
            resident.model.close()
