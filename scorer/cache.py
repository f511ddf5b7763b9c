"""The models in memory: borrow one, and it's loaded if it must be.

Contract: `peek` answers at once; what it returns may be used until the next await. `borrow` waits for the load, which
one task does for all who ask, and keeps the model from being evicted until it's given back.

Invariants: every loaded model is closed exactly once, after its last use; the bytes of all models, loaded and being
loaded, stay within the budget; a waiter that goes away leaves the load alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from registry.errors import ModelUnusableError, OverloadedError
from registry.flight import Flight
from registry.model import ModelVersion
from scorer.engine import LoadedModel
from scorer.lru import LruBytes

_RETRY_AFTER_MS = 200


class Resident(NamedTuple):
    """A loaded model, and how it came in. `residency`: the value of scoremesh.scoring.v1.Residency for the request that
    had to wait for it.
    """

    model: LoadedModel
    nbytes: int
    residency: int
    fetch_us: int
    load_us: int


Load = Callable[[ModelVersion], Awaitable[Resident]]


class ModelCache:
    """See the module. `on_evicted` is called after models were closed, with their number."""

    def __init__(self, capacity_bytes: int, load: Load, on_evicted: Callable[[int], None]) -> None:
        self._lru: LruBytes[str, Resident] = LruBytes(capacity_bytes)
        self._load = load
        self._on_evicted = on_evicted
        self._flight: Flight[str, None] = Flight()
        self._waiting: Counter[str] = Counter()
        self.peek = self._lru.get

    @property
    def used_bytes(self) -> int:
        """Bytes of all models, loaded and being loaded."""
        return self._lru.used_bytes

    def __len__(self) -> int:
        return len(self._lru)

    @contextlib.asynccontextmanager
    async def borrow(self, version: ModelVersion) -> AsyncIterator[Resident]:
        """The loaded model, pinned inside the context.

        Raises:
            ModelUnusableError: it can't be loaded, now or later.
            OverloadedError: there is no room, since everything in memory is in use.
            StoreUnavailableError: its bytes can't be fetched now.
        """
        resident = self._lru.get(version.digest)
        if resident is None:
            resident = await self._wait_for(version)
        else:
            self._lru.pin(version.digest)
        try:
            yield resident
        finally:
            self._lru.unpin(version.digest)

    async def _wait_for(self, version: ModelVersion) -> Resident:
        """Join the load, and pin what it brought.

        Between the end of the load and the moment when a waiter runs, another load may ask for room. So the load pins
        the model once for all waiters, and the last waiter takes that pin away after it has set its own.
        """
        digest = version.digest
        self._waiting[digest] += 1
        try:
            await self._flight.do(digest, lambda: self._bring(version))
            resident = self._lru.get(digest)
            if resident is None:
                raise OverloadedError("the model was evicted before it could be used", retry_after_ms=_RETRY_AFTER_MS)
            self._lru.pin(digest)
            return resident
        finally:
            self._waiting[digest] -= 1
            if not self._waiting[digest]:
                del self._waiting[digest]
                if self._lru.get(digest) is not None:
                    self._lru.unpin(digest)

    async def _bring(self, version: ModelVersion) -> None:
        """Reserve, load, fill. Nobody may have filled it meanwhile: the flight has one run a digest, and a run only
        starts when the digest isn't loaded.
        """
        self._close(self._reserve(version))
        try:
            resident = await self._load(version)
        except BaseException:
            self._lru.remove(version.digest)
            raise
        self._lru.fill(version.digest, resident, resident.nbytes)
        if self._waiting[version.digest]:
            self._lru.pin(version.digest)

    def _reserve(self, version: ModelVersion) -> list[Resident]:
        if version.resident_bytes > self._lru.capacity_bytes:
            raise ModelUnusableError(
                f"the model needs {version.resident_bytes} bytes of memory, this scorer has {self._lru.capacity_bytes}"
            )
        evicted = self._lru.reserve(version.digest, version.resident_bytes)
        if evicted is None:
            raise OverloadedError("all models in memory are in use or being loaded", retry_after_ms=_RETRY_AFTER_MS)
        return evicted

    def _close(self, evicted: list[Resident]) -> None:
        for resident in evicted:
            resident.model.close()
        if evicted:
            self._on_evicted(len(evicted))

    async def aclose(self) -> None:
        """Stop all loads and close all models."""
        await self._flight.aclose()
        for resident in self._lru.clear():
            resident.model.close()
