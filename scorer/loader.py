"""Brings a model into memory: fetch its parts, load, put its transforms before it.

Blocking work (files, sha256, the engine's load) runs on one thread, so that loads never take more than one core from
the scoring thread and their memory can be measured. Schemas and the tables of transforms are held once for all models
that have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar

import msgspec

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import ArtifactRejectedError, ModelUnusableError
from registry.manifest import decode
from registry.model import ModelSchema, ModelVersion
from registry.transform_tables import decode_table, join_tables, table_digests
from registry.transforms import TransformSpec, decode_spec
from scorer.cache import Resident
from scorer.cost_probe import CostProbe
from scorer.disk import DiskTier
from scorer.engine import LoadedModel, engine_for
from scorer.fetch import Fetch, Fetched
from scorer.in_flight import LOAD, NOWHERE, InFlight
from scorer.memory import measure_load, release_free_memory
from scorer.resident import close_models
from scorer.transforms import SharedTables, TransformedModel, compile_transform

_SCHEMAS = 10_000
_PACKAGES = 50_000
_T = TypeVar("_T")


class _Parts(NamedTuple):
    """What a version is made of."""

    artifact: Fetched
    schema: ModelSchema
    transforms: TransformSpec | None


class Loader:
    """See the module."""

    def __init__(self, store: ArtifactStore, disk: DiskTier, in_flight: InFlight = NOWHERE) -> None:
        self._in_flight = in_flight
        self._disk = disk
        self._fetch = Fetch(store, disk, self._run)
        self._schemas: dict[str, ModelSchema] = {}
        self._tables = SharedTables()
        self._costs = CostProbe()
        self._nbytes: dict[str, int] = {}  # by package
        self._freed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    async def load(self, version: ModelVersion) -> Resident:
        """The loaded model.

        Raises:
            ModelUnusableError: the artifact is missing, damaged or refused by its engine.
            StoreUnavailableError: object storage does not answer.
        """
        schema = self._schemas.get(version.schema)
        if schema is not None and not version.transforms and self.is_on_disk(version):
            resident = await self._run(lambda: self._load_from_disk(version, schema))
            if resident is not None:
                return resident
        parts = await self._parts(version)
        return await self._run(lambda: self._load(version, parts))

    async def _parts(self, version: ModelVersion) -> _Parts:
        """All parts, fetched at one time: most of a fetch is waiting."""
        if version.schema in self._schemas and not version.transforms:
            return _Parts(await self._artifact(version), self._schemas[version.schema], None)
        fetched = self._artifact(version), self._schema(version), self._transforms(version)
        artifact, schema, transforms = await _all(*fetched)
        return _Parts(artifact, schema, transforms)

    async def _artifact(self, version: ModelVersion) -> Fetched:
        return await self._get(version.tenant, version.artifact, version.artifact_bytes)

    async def _get(self, tenant: str, digest: str, size_bytes: int = 0) -> Fetched:
        return await self._fetch.get(layout.artifact_path(tenant, digest), tenant, digest, size_bytes)

    async def _schema(self, version: ModelVersion) -> ModelSchema:
        """The schema, held once for all models that have it: feature names are most of what a small model has."""
        schema = self._schemas.get(version.schema)
        if schema is None:
            path = layout.schema_path(version.tenant, version.schema)
            schema = decode(ModelSchema, (await self._fetch.get(path, version.tenant, version.schema)).data, path)
            if len(self._schemas) >= _SCHEMAS:
                self._schemas.clear()
            schema = self._schemas.setdefault(version.schema, schema)
        return schema

    async def _transforms(self, version: ModelVersion) -> TransformSpec | None:
        """The transforms with their tables put in."""
        if not version.transforms:
            return None
        try:
            spec = decode_spec((await self._get(version.tenant, version.transforms)).data)
        except ArtifactRejectedError as error:
            raise ModelUnusableError(f"the transforms of the model can't be read: {error.message}") from error
        digests = sorted({*table_digests(spec)})
        fetched = await _all(*(self._get(version.tenant, digest) for digest in digests))
        return join_tables(
            spec, {digest: decode_table(each.data) for digest, each in zip(digests, fetched, strict=True)}
        )

    def is_on_disk(self, version: ModelVersion) -> bool:
        """Whether the version's artifact is on the local disk."""
        return f"{version.tenant}/{version.artifact}" in self._disk

    def _load_from_disk(self, version: ModelVersion, schema: ModelSchema) -> Resident | None:
        """Read, check and load in one go: to hand over to another thread twice takes long on a busy machine."""
        artifact = self._fetch.from_disk(version.tenant, version.artifact)
        return None if artifact is None else self._load(version, _Parts(artifact, schema, None))

    def _load(self, version: ModelVersion, parts: _Parts) -> Resident:
        """The loaded model. `load_us` is without the time before its turn."""
        self._in_flight.enter(LOAD, version.package)
        began = perf_counter_ns()
        try:
            model, nbytes = self._measure(version, parts)
            costs = self._costs.curve(version, model, parts.schema, parts.transforms)
        finally:
            self._in_flight.leave(LOAD)
        load_us = (perf_counter_ns() - began) // 1000
        _data, residency, fetch_us, verify_us = parts.artifact
        return Resident(
            model,
            parts.schema,
            measured_bytes(nbytes, model.resident_bytes, version.resident_bytes),
            *(residency, fetch_us, load_us),
            verify_us=verify_us,
            version=version,
            costs=costs,
        )

    def _measure(self, version: ModelVersion, parts: _Parts) -> tuple[LoadedModel, int]:
        """The model, and what it has left allocated at its first load: its bytes are the same at each one, and to ask
        the allocator costs as much as to load a small model once it has many gaps.
        """
        nbytes = self._nbytes.get(version.package)
        if nbytes is not None:
            return self._make(version, parts), nbytes
        model, nbytes = measure_load(lambda: self._make(version, parts))
        if len(self._nbytes) >= _PACKAGES:
            self._nbytes.clear()
        self._nbytes[version.package] = nbytes
        return model, nbytes

    def _make(self, version: ModelVersion, parts: _Parts) -> LoadedModel:
        engine, schema = engine_for(version.runtime), parts.schema
        if parts.transforms is None:
            return engine.load(parts.artifact.data, schema)
        inner = msgspec.structs.replace(schema, features=parts.transforms.outputs, string_columns=())
        transform = compile_transform(parts.transforms, self._tables)
        return TransformedModel(engine.load(parts.artifact.data, inner), transform)

    async def purge(self, tenant: str, digests: Container[str]) -> int:
        """Delete a tenant's files from the disk, and those with these digests; returns how many."""
        self._schemas.clear()  # Whose they are isn't known; the models in memory have theirs.
        return await self._run(lambda: self._disk.purge(tenant, digests))

    def close_models(self, models: list[LoadedModel]) -> None:
        """Close models, on the loading thread: a large one takes a millisecond. Loads that are asked for afterwards
        come after it, so they find the memory free.
        """
        self._thread.submit(close_models, models)
        self._freed = True

    async def trim(self, *, always: bool = False) -> None:
        """Give freed memory back to the system, and wait for it; unless `always`, only where a model was closed since
        the last time. It takes up to 10 ms, in which the allocator stands still: not to be done for each model.
        """
        if self._freed or always:
            self._freed = False
            await self._run(release_free_memory)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for what the thread has to do, and end it. Nothing is loaded any more."""
        self._thread.shutdown()
        self._disk.close()


def measured_bytes(measured: int, estimated: int, reserved: int) -> int:
    """What a loaded model counts as: what was measured, but not under half of its engine's estimate, since other
    threads free memory meanwhile, and not over what was reserved, which was measured when it was published: a first
    load also leaves what all models of its library share. Pure.
    """
    return min(max(measured, estimated // 2, 1), reserved)


async def _all(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all. The first failure cancels the others and is raised as it is, when all have ended."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in running]
