"""The models in memory, with models that only count how often they are closed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from registry.errors import ModelUnusableError, OverloadedError, StoreUnavailableError
from registry.model import ModelSchema, ModelVersion, Runtime
from scorer.cache import ModelCache, Resident
from scorer.engine import Rows


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
    """A cache of 100 bytes. A load waits while its digest is in `held`; `errors`: what a load raises."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.made: list[FakeModel] = []
        self.held: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.evicted = 0
        self.actual_bytes: dict[str, int] = {}
        self.cache = ModelCache(100, self._load, self._on_evicted)

    async def _load(self, version: ModelVersion) -> Resident:
        self.loads.append(version.digest)
        await asyncio.sleep(0)
        if version.digest in self.held:
            await self.held[version.digest].wait()
        if version.digest in self.errors:
            raise self.errors[version.digest]
        self.made.append(FakeModel())
        nbytes = self.actual_bytes.get(version.digest, version.resident_bytes)
        return Resident(self.made[-1], nbytes, 3, 1, 1)

    def _on_evicted(self, count: int) -> None:
        self.evicted += count

    async def use(self, digest: str, nbytes: int = 40) -> FakeModel:
        async with self.cache.borrow(_version(digest, nbytes)) as resident:
            assert isinstance(resident.model, FakeModel)
            assert not resident.model.closed
            return resident.model

    async def begin(self, digest: str, nbytes: int = 40) -> asyncio.Task[FakeModel]:
        task = asyncio.create_task(self.use(digest, nbytes))
        await asyncio.sleep(0.001)
        return task


def _version(digest: str, nbytes: int) -> ModelVersion:
    return ModelVersion("1", digest, "uri", Runtime.LIGHTGBM, 1, nbytes, ModelSchema(("f",), ()))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_model_is_loaded_once_and_stays(bench: Bench) -> None:
    models = await asyncio.gather(*(bench.use("a") for _ in range(10)))
    assert set(models) == {await bench.use("a")}
    assert bench.loads == ["a"]
    assert bench.cache.used_bytes == 40
    assert bench.cache.peek("a") is not None
    assert bench.cache.peek("b") is None


async def test_the_least_recently_used_one_goes_and_is_closed_once(bench: Bench) -> None:
    a, b = await bench.use("a"), await bench.use("b")
    bench.cache.peek("a")
    await bench.use("c")
    assert (a.closed, b.closed, bench.evicted) == (0, 1, 1)
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
        digest = f"m{turns}"
        bench.held[digest] = asyncio.Event()
        waiter = await bench.begin(digest)
        bench.held[digest].set()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        async with asyncio.timeout(5):
            while bench.cache.peek(digest) is None:
                await asyncio.sleep(0)
        await bench.use("all", 100)
        await bench.use("small", 1)
        assert bench.cache.peek(digest) is None


async def test_what_was_loaded_for_a_waiter_is_not_evicted_before_it_runs(bench: Bench) -> None:
    for digest in "ab":
        bench.held[digest] = asyncio.Event()
    first, second = await bench.begin("a", 60), await bench.begin("b", 40)
    for digest in "ab":
        bench.held[digest].set()
    rivals = [asyncio.create_task(bench.use(f"r{i}", 60)) for i in range(5)]
    assert not isinstance(await first, BaseException)
    await second
    await asyncio.gather(*rivals, return_exceptions=True)


async def test_a_load_may_need_less_than_was_reserved(bench: Bench) -> None:
    bench.actual_bytes["a"] = 10
    await bench.use("a", 90)
    assert bench.cache.used_bytes == 10
    bench.actual_bytes["b"] = 95
    await bench.use("b", 50)
    assert bench.cache.used_bytes == 60, "a load that took more than was said is counted as said"


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
