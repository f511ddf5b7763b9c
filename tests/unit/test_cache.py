"""The models in memory, with models that only count how often they are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from registry.errors import ModelUnusableError, OverloadedError, StoreUnavailableError
from registry.model import ModelSchema, ModelVersion, Runtime
from scorer import residents
from scorer.cache import ModelCache, Resident
from scorer.engine import LoadedModel, Rows
from scorer.resident import close_models

_SCHEMA = ModelSchema(("f",), ())


class FakeModel:
    resident_bytes = 0

    def __init__(self) -> None:
        self.closed = 0

    def predict(self, rows: Rows) -> list[np.ndarray]:
        assert not self.closed
        return [rows.dense[:, 0]]

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A cache of 100 bytes. A load waits while its package is in `held`; `errors`: what a load raises."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.made: list[FakeModel] = []
        self.held: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.evicted: list[int] = []
        self.actual_bytes: dict[str, int] = {}
        self.cache = ModelCache(100, self._load, self._close, patience_s=0.05)

    async def _load(self, version: ModelVersion) -> Resident:
        self.loads.append(version.package)
        await asyncio.sleep(0)
        if version.package in self.held:
            await self.held[version.package].wait()
        if version.package in self.errors:
            raise self.errors[version.package]
        self.made.append(FakeModel())
        nbytes = self.actual_bytes.get(version.package, version.resident_bytes)
        return Resident(self.made[-1], _SCHEMA, nbytes, 3, 1, 1)

    def _close(self, models: Sequence[LoadedModel]) -> None:
        self.evicted.append(len(models))
        close_models(models)

    async def use(self, package: str, nbytes: int = 40) -> FakeModel:
        async with self.cache.borrow(_version(package, nbytes)) as resident:
            assert isinstance(resident.model, FakeModel)
            assert not resident.model.closed
            return resident.model

    async def begin(self, package: str, nbytes: int = 40) -> asyncio.Task[FakeModel]:
        task = asyncio.create_task(self.use(package, nbytes))
        await asyncio.sleep(0.001)
        return task


def _version(package: str, nbytes: int) -> ModelVersion:
    return ModelVersion("1", package, "acme", "0" * 64, "1" * 64, Runtime.LIGHTGBM, 1, nbytes)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """What was loaded may leave at once."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    bench = Bench()
    yield bench
    await bench.cache.aclose()


async def test_a_model_is_loaded_once_and_stays(bench: Bench) -> None:
    models = await asyncio.gather(*(bench.use("a") for _ in range(10)))
    assert set(models) == {await bench.use("a")}
    assert bench.loads == ["a"]
    assert bench.cache.used_bytes == 40
    assert bench.cache.peek("a") is not None
    assert bench.cache.peek("b") is None


async def test_what_is_used_least_goes_and_is_closed_once(bench: Bench) -> None:
    a, b = await bench.use("a"), await bench.use("b")
    bench.cache.peek("a")
    await bench.use("c")
    assert (a.closed, b.closed, bench.evicted) == (0, 1, [1])
    assert bench.cache.used_bytes == 80
    assert await bench.use("b") is not b
    assert [model.closed for model in bench.made].count(1) == 2, "the second b took the place of another one"


async def test_what_is_borrowed_stays_and_the_budget_holds(bench: Bench) -> None:
    async with bench.cache.borrow(_version("a", 60)) as held:
        with pytest.raises(OverloadedError) as caught:
            await bench.use("b", 60)
        assert caught.value.retry_after_ms > 0
        assert bench.cache.used_bytes == 60
        assert [model.closed for model in bench.made] == [0]
        assert held.model is bench.made[0]
    await bench.use("b", 60)
    assert [model.closed for model in bench.made] == [1, 0]


async def test_a_load_that_fails_gives_its_bytes_back(bench: Bench) -> None:
    bench.errors["a"] = StoreUnavailableError("down")
    results = await asyncio.gather(*(bench.use("a", 100) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    assert bench.loads == ["a"]
    assert (bench.cache.used_bytes, len(bench.cache)) == (0, 0)
    bench.errors.clear()
    bench.cache.purge("", {"a"})
    assert not (await bench.use("a", 100)).closed


async def test_a_model_that_can_never_fit_evicts_nobody(bench: Bench) -> None:
    a = await bench.use("a")
    with pytest.raises(ModelUnusableError):
        await bench.use("huge", 101)
    assert not a.closed
    assert bench.loads == ["a"]


async def test_a_waiter_that_leaves_lets_the_load_go_on(bench: Bench) -> None:
    bench.held["a"] = asyncio.Event()
    leaves, stays = await bench.begin("a"), await bench.begin("a")
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    bench.held["a"].set()
    model = await stays
    assert bench.loads == ["a"]
    assert bench.cache.peek("a") is not None
    await bench.use("b", 100)
    assert model.closed == 1, "no pin was left behind"


async def test_a_load_that_all_have_left_goes_on_and_leaves_no_pin(bench: Bench) -> None:
    bench.held["a"] = asyncio.Event()
    only = await bench.begin("a")
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    bench.held["a"].set()
    async with asyncio.timeout(5):
        while bench.cache.peek("a") is None:
            await asyncio.sleep(0)
    assert bench.cache.used_bytes == 40
    await bench.use("b", 100)
    assert bench.made[0].closed == 1


async def test_a_waiter_cancelled_as_the_load_ends_leaves_no_pin(bench: Bench) -> None:
    """In each turn of the loop between the end of the load and the waiter's own."""
    for turns in range(6):
        package = f"m{turns}"
        bench.held[package] = asyncio.Event()
        waiter = await bench.begin(package)
        bench.held[package].set()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        async with asyncio.timeout(5):
            while bench.cache.peek(package) is None:
                await asyncio.sleep(0)
        await bench.use("all", 100)
        await bench.use("small", 1)
        assert bench.cache.peek(package) is None


async def test_what_was_loaded_for_a_waiter_is_not_evicted_before_it_runs(bench: Bench) -> None:
    for package in "ab":
        bench.held[package] = asyncio.Event()
    first, second = await bench.begin("a", 60), await bench.begin("b", 40)
    for package in "ab":
        bench.held[package].set()
    rivals = [asyncio.create_task(bench.use(f"r{i}", 60)) for i in range(5)]
    assert not isinstance(await first, BaseException)
    await second
    await asyncio.gather(*rivals, return_exceptions=True)


@pytest.mark.parametrize(("measured", "counted"), [(50, 50), (10, 20), (81, 80)])
async def test_a_model_counts_as_what_it_takes_within_bounds(bench: Bench, measured: int, counted: int) -> None:
    """A measurement that goes wrong can make it neither nothing nor more than there was room for."""
    bench.actual_bytes["a"] = measured
    await bench.use("a", 80)
    assert bench.cache.used_bytes == counted


async def test_a_purge_closes_each_model_once_and_tells_it_once(bench: Bench) -> None:
    for number in range(20):
        await bench.use(f"m{number}", 5)
    assert len(bench.cache.purge("acme", ())) == 20
    assert bench.evicted == [20]
    assert [model.closed for model in bench.made] == [1] * 20


async def test_a_purge_finds_what_is_in_use_once(bench: Bench) -> None:
    async with bench.cache.borrow(_version("a", 40)):
        assert bench.cache.purge("acme", ()) == ["a"]
        assert bench.cache.is_leaving("a")
        assert bench.cache.purge("acme", ()) == []
    assert not bench.cache.holds("a")
    assert not bench.cache.is_leaving("a")


async def test_closing_closes_every_model_once_and_stops_loads(bench: Bench) -> None:
    await bench.use("a")
    bench.held["b"] = asyncio.Event()
    waiting = await bench.begin("b")
    await bench.cache.aclose()
    assert [model.closed for model in bench.made] == [1]
    assert waiting.cancelled() or (await asyncio.gather(waiting, return_exceptions=True))[0] is not None
    assert bench.cache.used_bytes == 0


async def test_many_at_once_close_each_model_exactly_once(bench: Bench) -> None:
    tasks = [asyncio.create_task(bench.use(f"m{i * 7 % 11}", 30)) for i in range(200)]
    for task in tasks[::13]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, FakeModel | OverloadedError | asyncio.CancelledError) for r in results)
    assert any(isinstance(r, FakeModel) for r in results)
    assert bench.cache.used_bytes <= 100
    await bench.cache.aclose()
    assert [model.closed for model in bench.made] == [1] * len(bench.made)
