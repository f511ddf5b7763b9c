"""Brings a model into memory: fetch (disk tier, else object storage), verify, load.

The digest is checked at each page-in, whichever tier the bytes come from: a bad copy on disk is thrown away and fetched
anew, bad bytes in object storage are DigestMismatchError. Blocking work (files, sha256, the engine's load) runs on one
thread, so that loads never take more than one core from the scoring thread and their memory can be measured.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Container, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any, TypeVar

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import DigestMismatchError, ModelUnusableError, ObjectMissingError
from registry.manifest import decode
from registry.model import ModelSchema, ModelVersion, Runtime
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK
from scorer.cache import Resident
from scorer.disk import DiskTier
from scorer.engine import LoadedModel, engine_for
from scorer.memory import measure_load, release_free_memory

_FETCHES = 8
_SCHEMAS = 10_000
_T = TypeVar("_T")
_U = TypeVar("_U")


class Loader:
    """See the module."""

    def __init__(self, store: ArtifactStore, disk: DiskTier) -> None:
        self._store = store
        self._disk = disk
        self._schemas: dict[str, ModelSchema] = {}
        self._used: set[Runtime] = set()
        self._release_due = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
        self._fetches = asyncio.Semaphore(_FETCHES)

    async def load(self, version: ModelVersion) -> Resident:
        """The loaded model.

        Raises:
            ModelUnusableError: the artifact is missing, damaged or refused by its engine.
            StoreUnavailableError: object storage does not answer.
        """
        began = perf_counter_ns()
        path = layout.artifact_path(version.tenant, version.artifact)
        fetch = self._fetch(path, version.tenant, version.artifact)
        schema, (data, residency) = await _both(self._schema(version), fetch)
        fetched = perf_counter_ns()
        model, nbytes = await self._run(lambda: self._load(version, data, schema))
        loaded = perf_counter_ns()
        return Resident(model, schema, nbytes, residency, (fetched - began) // 1000, (loaded - fetched) // 1000)

    def _load(self, version: ModelVersion, data: bytes, schema: ModelSchema) -> tuple[LoadedModel, int]:
        """The model and the bytes that it takes."""
        engine = engine_for(version.runtime)
        model, nbytes = measure_load(lambda: engine.load(data, schema))
        if version.runtime not in self._used:  # A library's first load also leaves what all its models share.
            self._used.add(version.runtime)
            nbytes = min(nbytes, version.resident_bytes)
        return model, max(nbytes, model.resident_bytes)  # An engine that reuses freed memory measures low.

    async def _schema(self, version: ModelVersion) -> ModelSchema:
        """The schema, held once for all models that have it: feature names are most of what a small model has."""
        schema = self._schemas.get(version.schema)
        if schema is None:
            path = layout.schema_path(version.tenant, version.schema)
            data, _ = await self._fetch(path, version.tenant, version.schema)
            schema = decode(ModelSchema, data, path)
            if len(self._schemas) >= _SCHEMAS:
                self._schemas.clear()
            schema = self._schemas.setdefault(version.schema, schema)
        return schema

    async def _fetch(self, path: str, tenant: str, digest: str) -> tuple[bytes, int]:
        data = await self._run(lambda: self._from_disk(f"{tenant}/{digest}", digest))
        if data is not None:
            return data, RESIDENCY_DISK
        async with self._fetches:
            try:
                data = await self._store.get(path)
            except ObjectMissingError as error:
                raise ModelUnusableError(f"{path} is missing from the store") from error
        return await self._run(lambda: self._verify_and_keep(path, f"{tenant}/{digest}", digest, data)), RESIDENCY_COLD

    def _from_disk(self, name: str, digest: str) -> bytes | None:
        data = self._disk.read(name)
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            self._disk.discard(name)
            return None
        return data

    def _verify_and_keep(self, path: str, name: str, digest: str, data: bytes) -> bytes:
        if hashlib.sha256(data).hexdigest() != digest:
            raise DigestMismatchError(f"{path} in the store is not what was published (sha256 differs)")
        self._disk.write(name, data)
        return data

    async def purge(self, tenant: str, digests: Container[str]) -> int:
        """Delete a tenant's files from the disk, and those with these digests; returns how many."""
        self._schemas.clear()  # Whose they are isn't known; the models in memory have theirs.
        return await self._run(lambda: self._disk.purge(tenant, digests))

    def release_memory(self) -> None:
        """Give freed memory back to the system, on the loading thread: it takes milliseconds. However often this is
        called before the thread comes to it, it does so once.
        """
        if not self._release_due:
            self._release_due = True
            self._thread.submit(self._release)

    def _release(self) -> None:
        self._release_due = False
        release_free_memory()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the load under way and end the thread."""
        self._thread.shutdown(cancel_futures=True)


async def _both(one: Coroutine[Any, Any, _T], other: Coroutine[Any, Any, _U]) -> tuple[_T, _U]:
    """The results of both. The first failure cancels the other one and is raised as it is, when both have ended."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(one), tasks.create_task(other)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return running[0].result(), running[1].result()
