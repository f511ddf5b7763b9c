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
import numpy as np
import pytest

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import DigestMismatchError, ModelUnusableError, ObjectMissingError
from registry.model import ModelSchema, ModelVersion, Runtime
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK
from scorer import loader
from scorer.disk import DiskTier
from scorer.engine import Rows
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

    async def get(self, path: str, size_bytes: int = 0) -> bytes:
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


async def test_a_damaged_file_is_found_after_a_restart_and_fetched_anew(bench: Bench) -> None:
    path = layout.artifact_path("acme", ARTIFACT)
    bench.store.objects[path] = DATA
    await bench.loader._get("acme", ARTIFACT)
    (bench.folder / "acme" / ARTIFACT).write_bytes(DATA[:500])
    again = Loader(cast("ArtifactStore", bench.store), DiskTier(bench.folder, 1 << 20))
    found = await again._get("acme", ARTIFACT, len(DATA))
    assert (found.data, found.residency) == (DATA, RESIDENCY_COLD)
    found = await again._get("acme", ARTIFACT, len(DATA))
    assert (found.data, found.residency) == (DATA, RESIDENCY_DISK)
    again.close()


async def test_the_first_of_two_failures_is_raised(bench: Bench) -> None:
    bench.store.objects[layout.artifact_path("acme", ARTIFACT)] = b"damaged"
    bench.store.held[layout.schema_path("acme", "0" * 64)] = asyncio.Event()
    with pytest.raises(DigestMismatchError):
        await bench.loader.load(version("0" * 64))


class Closable:
    """Notes in `order` that it was closed, or fails."""

    resident_bytes = 0

    def __init__(self, order: list[str], name: str, error: Exception | None = None) -> None:
        self._order, self._name, self._error = order, name, error

    def close(self) -> None:
        if self._error is not None:
            raise self._error
        self._order.append(self._name)

    def predict(self, _rows: Rows) -> list[np.ndarray]:
        return []


async def test_models_are_closed_behind_what_runs_and_before_later_loads(bench: Bench) -> None:
    gate = threading.Event()
    order: list[str] = []
    busy = asyncio.get_running_loop().run_in_executor(bench.loader._thread, gate.wait)
    bench.loader.close_models([Closable(order, "broken", ZeroDivisionError()), Closable(order, "a")])
    bench.loader.close_models([Closable(order, "b")])
    later = bench.loader._run(lambda: order.append("load"))
    assert order == []
    gate.set()
    await asyncio.gather(busy, later)
    assert order == ["a", "b", "load"]


async def test_memory_is_given_back_once_for_all_that_were_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(loader, "release_free_memory", lambda: order.append("given back"))
    await bench.loader.trim()
    assert order == [], "nothing was closed"
    for name in "ab":
        bench.loader.close_models([Closable(order, name)])
    await bench.loader.trim()
    await bench.loader.trim()
    assert order == ["a", "b", "given back"]
    await bench.loader.trim(always=True)
    assert order[3:] == ["given back"]


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
    versions = [msgspec.structs.replace(version(digest), package=package) for package in "abc"]
    assert [(await bench.loader.load(each)).nbytes for each in versions] == [1000, 1000, 250]
    assert [(await bench.loader.load(each)).nbytes for each in versions] == [1000, 1000, 250], "measured once"


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
