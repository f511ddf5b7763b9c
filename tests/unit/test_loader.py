"""Bringing models into memory, with a store that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import DigestMismatchError, ModelUnusableError, ObjectMissingError
from registry.model import ModelSchema, ModelVersion, Runtime
from scorer import loader
from scorer.disk import DiskTier
from scorer.in_flight import BlackBox, InFlight
from scorer.loader import Loader

DATA = b"x" * 1000
ARTIFACT = hashlib.sha256(DATA).hexdigest()
SCHEMA = msgspec.json.encode(ModelSchema(("f",), ()))


class Store:
    """Objects by path; one of `held` waits."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.held: dict[str, asyncio.Event] = {}

    async def get(self, path: str) -> bytes:
        if path in self.held:
            await self.held[path].wait()
        if path not in self.objects:
            raise ObjectMissingError(path)
        return self.objects[path]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store()
        self.loader = Loader(cast("ArtifactStore", self.store), DiskTier(folder, 1 << 20))

    def files(self) -> list[str]:
        return [path.name for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.loader.close()


def version(schema: str) -> ModelVersion:
    return ModelVersion("1", "p", "acme", ARTIFACT, schema, Runtime.LIGHTGBM, 1000, 1000)


async def test_a_load_that_fails_fetches_nothing_more(bench: Bench) -> None:
    """Whoever purges waits for the load, and may take it that nothing is written to the disk afterwards."""
    path = layout.artifact_path("acme", ARTIFACT)
    gate = bench.store.held[path] = asyncio.Event()
    bench.store.objects[path] = DATA
    with pytest.raises(ModelUnusableError, match=r"schemas/0000.* is missing from the store") as caught:
        await bench.loader.load(version("0" * 64))
    assert isinstance(caught.value.__cause__, ObjectMissingError)
    gate.set()
    running = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(running or {asyncio.create_task(asyncio.sleep(0))})
    assert await bench.loader.purge("acme", ()) == 0
    assert bench.files() == []


async def test_the_first_of_two_failures_is_raised(bench: Bench) -> None:
    bench.store.objects[layout.artifact_path("acme", ARTIFACT)] = b"damaged"
    bench.store.held[layout.schema_path("acme", "0" * 64)] = asyncio.Event()
    with pytest.raises(DigestMismatchError):
        await bench.loader.load(version("0" * 64))


async def test_memory_is_released_once_for_many_calls(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, releases = threading.Event(), []
    monkeypatch.setattr(loader, "release_free_memory", lambda: releases.append(1))
    busy = asyncio.get_running_loop().run_in_executor(bench.loader._thread, gate.wait)
    for _ in range(100):
        bench.loader.release_memory()
    gate.set()
    await busy
    await bench.loader.purge("acme", ())  # behind the releases, on the same thread
    assert len(releases) == 1
    bench.loader.release_memory()
    await bench.loader.purge("acme", ())
    assert len(releases) == 2


async def test_what_a_model_counts_as_is_between_its_engines_estimate_and_what_was_reserved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        resident_bytes = 500

    class Engine:
        def load(self, _data: bytes, _schema: ModelSchema) -> Model:
            return Model()

    measured = iter([50_000, 3_000, 100])
    monkeypatch.setattr(loader, "engine_for", lambda _runtime: Engine())
    monkeypatch.setattr(loader, "measure_load", lambda load: (load(), next(measured)))
    digest = hashlib.sha256(SCHEMA).hexdigest()
    bench.store.objects[layout.artifact_path("acme", ARTIFACT)] = DATA
    bench.store.objects[layout.schema_path("acme", digest)] = SCHEMA
    assert [(await bench.loader.load(version(digest))).nbytes for _ in range(3)] == [1000, 1000, 250]


async def test_what_is_loaded_is_in_flight_and_nothing_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    class Engine:
        def load(self, _data: bytes, _schema: ModelSchema) -> None:
            seen.append(box.read().packages)
            raise ModelUnusableError("no model")

    monkeypatch.setattr(loader, "engine_for", lambda _runtime: Engine())
    digest = hashlib.sha256(SCHEMA).hexdigest()
    bench.store.objects[layout.artifact_path("acme", ARTIFACT)] = DATA
    bench.store.objects[layout.schema_path("acme", digest)] = SCHEMA
    with contextlib.closing(BlackBox()) as box:
        disk = DiskTier(tmp_path / "other", 1 << 20)
        noting = Loader(cast("ArtifactStore", bench.store), disk, in_flight=InFlight(box.memory_fd))
        with contextlib.closing(noting), pytest.raises(ModelUnusableError, match="no model"):
            await noting.load(version(digest))
        assert seen == [("", "p", "")]
        assert box.read().packages == ("", "", "")
