"""Brings a model into memory: fetch (disk tier, else object storage), verify, load.

The digest is checked at each page-in, whichever tier the bytes come from: a bad copy on disk is thrown away and fetched
anew, bad bytes in object storage are DigestMismatchError. Blocking work (files, sha256, the engine's load) runs on one
thread, so that loads never take more than one core from the scoring thread and their memory can be measured.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import TypeVar

from registry.artifacts import ArtifactStore
from registry.errors import DigestMismatchError, ModelUnusableError, ObjectMissingError
from registry.model import ModelVersion
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK
from scorer.cache import Resident
from scorer.disk import DiskTier
from scorer.engine import LoadedModel, engine_for
from scorer.memory import measure_load, release_free_memory

_FETCHES = 8
_T = TypeVar("_T")


class Loader:
    """See the module."""

    def __init__(self, store: ArtifactStore, disk: DiskTier) -> None:
        self._store = store
        self._disk = disk
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._fetches = asyncio.Semaphore(_FETCHES)

    async def load(self, version: ModelVersion) -> Resident:
        """The loaded model.

        Raises:
            ModelUnusableError: the artifact is missing, damaged or refused by its engine.
            StoreUnavailableError: object storage does not answer.
        """
        began = perf_counter_ns()
        data, residency = await self._fetch(version)
        fetched = perf_counter_ns()
        model, nbytes = await self._run(lambda: _load(version, data))
        loaded = perf_counter_ns()
        # An engine that reuses freed memory measures low; what the publisher measured bounds it from above.
        nbytes = max(nbytes, model.resident_bytes)
        return Resident(model, nbytes, residency, (fetched - began) // 1000, (loaded - fetched) // 1000)

    async def _fetch(self, version: ModelVersion) -> tuple[bytes, int]:
        data = await self._run(lambda: self._from_disk(version.digest))
        if data is not None:
            return data, RESIDENCY_DISK
        async with self._fetches:
            try:
                data = await self._store.get(version.uri)
            except ObjectMissingError as error:
                raise ModelUnusableError(
                    f"the artifact of version {version.version} is missing from the store"
                ) from error
        return await self._run(lambda: self._verify_and_keep(version.digest, data)), RESIDENCY_COLD

    def _from_disk(self, digest: str) -> bytes | None:
        data = self._disk.read(digest)
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            self._disk.discard(digest)
            return None
        return data

    def _verify_and_keep(self, digest: str, data: bytes) -> bytes:
        if hashlib.sha256(data).hexdigest() != digest:
            raise DigestMismatchError("the artifact in the store is not what was published (sha256 differs)")
        self._disk.write(digest, data)
        return data

    def release_memory(self) -> None:
        """Give freed memory back to the system, on the loading thread: it takes milliseconds."""
        self._thread.submit(release_free_memory)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the load under way and end the thread."""
        self._thread.shutdown(cancel_futures=True)


def _load(version: ModelVersion, data: bytes) -> tuple[LoadedModel, int]:
    return measure_load(lambda: engine_for(version.runtime).load(data, version.schema))
