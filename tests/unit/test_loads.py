"""Loads in fair order, refused where they're known to fail or to come too late, and waiting for room; with models that
only count how often they are closed, in a cache of 100 bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from math import inf

import pytest

from registry.errors import (
    LoadQueueFullError,
    ModelUnusableError,
    OverloadedError,
    ScoreMeshError,
    StoreUnavailableError,
    TooSlowError,
)
from registry.model import ModelRef, ModelSchema, ModelVersion, Runtime, TenantRecord
from scorer import load_queue, loads, residents
from scorer.cache import ModelCache, Resident
from scorer.engine import LoadedModel, Rows
from scorer.resident import close_models

_SCHEMA = ModelSchema(("f",), ())


class CountingModel:
    resident_bytes = 0

    def __init__(self) -> None:
        self.closed = 0

    def predict(self, _rows: Rows) -> list[object]:
        return []

    def close(self) -> None:
        self.closed += 1


class Desk:
    """`gate`: loads wait for it; `begun`: packages in the order in which their loads began; `took_us`: what a load says
    that it took.
    """

    def __init__(self, patience_s: float) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: dict[str, Exception] = {}
        self.took_us = 1000
        self.evicted = 0
        self.models: dict[str, CountingModel] = {}
        self.cache = ModelCache(100, self._load, self._close, patience_s=patience_s)
        self._tasks: list[asyncio.Task[str]] = []

    async def _load(self, version: ModelVersion) -> Resident:
        self.begun.append(version.package)
        await self.gate.wait()
        if version.package in self.errors:
            raise self.errors[version.package]
        model = self.models[version.package] = CountingModel()
        return Resident(model, _SCHEMA, version.resident_bytes, 3, self.took_us, self.took_us)  # type: ignore[arg-type]

    def _close(self, models: Sequence[LoadedModel]) -> None:
        self.evicted += len(models)
        close_models(models)

    async def use(
        self, package: str, nbytes: int = 1, *, left_s: float = inf, background: bool = False, asker: str = ""
    ) -> str:
        """Borrow it; the first letter of a package is its tenant, who also asks unless somebody else does."""
        version = ModelVersion("1", package, package[0], "", "", Runtime.ONNX, 1000, nbytes)
        ref = ModelRef(asker or package[0], "m")
        deadline = asyncio.get_running_loop().time() + left_s
        async with self.cache.borrow(version, ref=ref, deadline=deadline, background=background) as resident:
            assert resident.version == version
            return package

    def begin(self, package: str, nbytes: int = 1, **how: object) -> asyncio.Task[str]:
        self._tasks.append(asyncio.create_task(self.use(package, nbytes, **how)))  # type: ignore[arg-type]
        return self._tasks[-1]

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0)

    async def turns(self, count: int = 10) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cache.aclose()


@pytest.fixture(autouse=True)
def four_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "AT_ONCE", 4)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk(patience_s=5.0)
    yield desk
    await desk.aclose()


async def test_a_flood_of_one_tenant_is_not_before_another_tenants_load(desk: Desk) -> None:
    desk.gate.clear()
    flood = [desk.begin(f"a{number}") for number in range(20)]
    await desk.until_begun(3)
    other = desk.begin("b")
    await desk.until_begun(4)
    assert desk.begun == ["a0", "a1", "a2", "b"]
    third = desk.begin("c")
    await desk.turns()
    desk.gate.set()
    await asyncio.gather(*flood, other, third)
    assert desk.begun.index("c") == 4


async def test_loads_for_another_tenant_wait_behind_who_asks(desk: Desk) -> None:
    """Where tenants use a shared model, the one that asks is who waits."""
    desk.gate.clear()
    for number in range(20):
        desk.begin(f"s{number}", asker="a")
    await desk.until_begun(3)
    desk.begin("s99", asker="b")
    await desk.until_begun(4)
    assert desk.begun[3] == "s99"


async def test_a_request_takes_a_load_out_of_the_background(desk: Desk) -> None:
    desk.gate.clear()
    background = [desk.begin(f"{tenant}0", background=True) for tenant in "abcd"]
    await desk.until_begun(2)
    await desk.turns()
    assert desk.begun == ["a0", "b0"]
    asked = desk.begin("d0")
    await desk.until_begun(3)
    assert desk.begun == ["a0", "b0", "d0"]
    desk.gate.set()
    await asyncio.gather(asked, *background)
    assert (desk.cache.counts.loads, desk.cache.counts.upgraded) == (4, 1)


async def test_a_load_tells_how_long_it_waited(desk: Desk) -> None:
    desk.gate.clear()
    first = [desk.begin(f"a{number}") for number in range(4)]
    await desk.until_begun(3)
    await asyncio.sleep(0.02)
    desk.gate.set()
    await asyncio.gather(*first)
    waited = [resident.queue_us for package in ("a0", "a3") if (resident := desk.cache.peek(package))]
    assert waited[0] < 20_000 <= waited[1]


async def test_a_failure_is_told_again_without_another_load(desk: Desk) -> None:
    desk.errors["a"] = ModelUnusableError("its file is damaged")
    for retry in (False, True, True):
        with pytest.raises(ModelUnusableError, match="its file is damaged") as caught:
            await desk.use("a")
        assert (caught.value.retry_after_ms > 0) == retry
    assert desk.begun == ["a"]
    assert (desk.cache.counts.failures, desk.cache.counts.refused) == (1, 2)
    assert not desk.cache.holds("a")
    desk.errors.clear()
    desk.cache.purge("a", ())
    assert await desk.use("a") == "a"


async def test_a_store_that_is_away_is_asked_again_soon(desk: Desk) -> None:
    desk.errors["a"] = StoreUnavailableError("away")
    with pytest.raises(StoreUnavailableError):
        await desk.use("a")
    desk.errors.clear()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await desk.use("a") == "a"
                break
            except StoreUnavailableError as error:
                await asyncio.sleep(error.retry_after_ms / 1000)
    assert desk.begun == ["a", "a"]


async def experienced(desk: Desk, took_us: int) -> None:
    """So many loads that it knows what one takes: twice `took_us`."""
    desk.took_us = took_us
    for number in range(5):
        await desk.use(f"z{number}")
    desk.begun.clear()


async def test_who_has_not_time_enough_is_told_at_once_and_the_load_goes_on(desk: Desk) -> None:
    await experienced(desk, 500_000)
    with pytest.raises(TooSlowError, match="takes about 1000 ms, which goes on") as caught:
        await desk.use("a", left_s=0.9)
    assert 900 < caught.value.retry_after_ms <= 1000
    assert desk.cache.counts.refused == 1
    async with asyncio.timeout(10):
        while desk.cache.peek("a") is None:
            await asyncio.sleep(0)
    assert await desk.use("a", left_s=0.001) == "a"
    assert desk.begun == ["a"]
    assert await desk.use("b", left_s=30.0) == "b"


async def test_a_refusal_is_not_for_ever(desk: Desk) -> None:
    """The loads that go on measure anew."""
    await experienced(desk, 500_000)
    desk.took_us = 10
    for number in range(100):
        try:
            await desk.use(f"a{number}", left_s=0.2)
            break
        except TooSlowError:
            async with asyncio.timeout(10):
                while desk.cache.peek(f"a{number}") is None:
                    await asyncio.sleep(0)
    else:
        pytest.fail("it never believed that loads had become quicker")


async def test_who_would_have_time_without_the_others_is_told_so(desk: Desk) -> None:
    await experienced(desk, 500_000)
    desk.gate.clear()
    for number in range(30):
        desk.begin(f"a{number}")
    await desk.until_begun(3)
    with pytest.raises(LoadQueueFullError, match="loads wait") as caught:
        await desk.use("a30", left_s=5.0)
    assert caught.value.retry_after_ms > 5000
    other = desk.begin("b", left_s=5.0)
    await desk.until_begun(4)
    desk.gate.set()
    assert await other == "b"
    async with asyncio.timeout(10):
        while desk.cache.peek("a30") is None:
            await asyncio.sleep(0)


async def test_too_many_waiting_loads_of_a_tenant_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.cache._loads._queue, "_length_per_tenant", 2)
    desk.gate.clear()
    for number in range(5):
        desk.begin(f"a{number}")
    await desk.until_begun(3)
    with pytest.raises(LoadQueueFullError):
        await desk.use("a5")
    assert not desk.cache.holds("a5")
    desk.begin("b")
    await desk.until_begun(4)
    assert load_queue.LENGTH_PER_TENANT > 2


async def test_a_load_waits_until_what_was_just_loaded_may_go(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.05)
    await desk.use("a", 100)
    assert await desk.use("b", 100) == "b"
    assert desk.models["a"].closed == 1
    assert desk.cache.used_bytes == 100


async def test_a_load_waits_until_a_model_is_given_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = [desk.begin("b", 60), desk.begin("c", 40)]
    await desk.turns(50)
    assert desk.begun == ["a"]
    other = desk.begin("d", 101)
    with pytest.raises(ModelUnusableError):
        await other
    release()
    assert await asyncio.gather(*waiting) == ["b", "c"]


async def test_loads_without_room_hold_no_place(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than places, and a load that fits begins all the same."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await desk.use("a", 90)
    release = desk.cache.keep("a")
    large = [desk.begin(f"{tenant}1", 50) for tenant in "bcdefg"]
    await desk.turns(50)
    async with asyncio.timeout(4):
        assert await desk.use("h", 10) == "h"
    release()
    await asyncio.gather(*large)


async def test_a_tenant_that_loads_without_end_waits_for_its_own_models(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' models may leave, but only for a quarter of the memory within the time in which its own may not."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    for number in range(10):
        await desk.use(f"b{number}", 10)
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.2)
    await asyncio.sleep(0.2)  # b's are no longer just loaded
    desk.begun.clear()
    loading = [desk.begin(f"a{number}", 10) for number in range(3)]
    await until_parked(desk, 1)
    assert sorted(desk.begun) == ["a0", "a1"]
    assert sum(desk.cache.holds(f"b{number}") for number in range(10)) == 8
    await asyncio.gather(*loading)


async def test_what_is_guaranteed_or_free_is_filled_at_once(desk: Desk) -> None:
    await asyncio.gather(*(desk.use(f"a{number}", 10) for number in range(8)), desk.use("b", 20))
    assert desk.cache.counts.parked == 0
    desk.cache.purge("", {"b"})
    desk.cache.set_limits(TenantRecord(tenant="b", guaranteed_bytes=80))
    await asyncio.gather(*(desk.use(f"b{number}", 10) for number in range(2)))
    assert desk.cache.counts.parked == 0


async def test_without_room_until_the_deadline_it_is_said_so(desk: Desk) -> None:
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    with pytest.raises(OverloadedError, match="all models in memory are in use") as caught:
        async with asyncio.timeout(4):
            await desk.use("b", 50, left_s=0.05)
    assert caught.value.retry_after_ms > 0
    assert type(caught.value) is OverloadedError
    release()


async def test_a_background_load_does_not_wait_for_room(desk: Desk) -> None:
    await desk.use("a", 100)
    with pytest.raises(OverloadedError):
        async with asyncio.timeout(4):
            await desk.use("b", 50, background=True)
    assert desk.cache.peek("a") is not None


async def test_patience_has_an_end() -> None:
    desk = Desk(patience_s=0.05)
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    with pytest.raises(OverloadedError):
        async with asyncio.timeout(4):
            await desk.use("b", 50)
    release()
    await desk.aclose()


async def test_a_purge_drops_loads_that_have_not_begun(desk: Desk) -> None:
    desk.gate.clear()
    waiting = [desk.begin(f"a{number}") for number in range(6)]
    other = desk.begin("b1")
    await desk.until_begun(4)
    assert sorted(desk.cache.purge("a", ())) == [f"a{number}" for number in range(6)]
    assert desk.cache.purge("a", ()) == []
    desk.gate.set()
    await desk.cache.wait_purged()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[:3] == ["a0", "a1", "a2"]
    assert [type(result) for result in results[3:]] == [OverloadedError] * 3
    assert await other == "b1"
    assert sorted(desk.begun) == ["a0", "a1", "a2", "b1"]
    assert [desk.models[f"a{number}"].closed for number in range(3)] == [1, 1, 1]
    assert len(desk.cache) == 1
    assert await desk.use("a4") == "a4"


async def test_a_purge_drops_loads_that_wait_for_room(desk: Desk) -> None:
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = desk.begin("b", 50)
    async with asyncio.timeout(4):
        while not desk.cache._loads._parked:
            await asyncio.sleep(0)
    assert desk.cache.purge("b", ()) == ["b"]
    with pytest.raises(OverloadedError, match="dropped"):
        await waiting
    release()
    assert desk.begun == ["a"]


async def until_parked(desk: Desk, count: int) -> None:
    async with asyncio.timeout(10):
        while len(desk.cache._loads._parked) < count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", range(5))
async def test_a_purge_as_a_load_goes_on_after_it_waited_for_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """In each turn of the loop between the room and the load: it's dropped, or it's loaded and then closed."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = [desk.begin("b1", 50), desk.begin("b2", 50)]
    await until_parked(desk, 1)
    release()
    await desk.turns(turns)
    assert sorted(desk.cache.purge("b", ())) == ["b1", "b2"]
    await desk.cache.wait_purged()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, OverloadedError) or result in {"b1", "b2"}
    assert not desk.cache.holds("b1")
    assert not desk.cache.holds("b2")
    assert all(desk.models[each].closed == 1 for each in ("b1", "b2") if each in desk.models)
    assert await desk.use("b1", 50) == "b1"


async def test_a_load_that_waits_for_room_goes_on_when_all_who_asked_have_gone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = [desk.begin("b", 50), desk.begin("b", 50)]
    await until_parked(desk, 1)
    for waiter in waiting:
        waiter.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    release()
    async with asyncio.timeout(10):
        while desk.cache.peek("b") is None:
            await asyncio.sleep(0)
    assert await desk.use("c", 100) == "c", "no pin was left behind"


async def test_loads_of_one_tenant_that_wait_for_room_go_on_one_after_the_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin together, and each finds no room; the others of the tenant begin when none of them waits any more."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = [desk.begin(f"b{number}", 60) for number in range(5)]
    await until_parked(desk, 3)
    assert desk.cache.counts.parked == 3
    release()
    assert await asyncio.gather(*waiting) == [f"b{number}" for number in range(5)]
    assert sorted(desk.begun[1:]) == [f"b{number}" for number in range(5)]


async def test_closing_while_loads_wait_for_room_leaves_nothing(desk: Desk) -> None:
    await desk.use("a", 100)
    release = desk.cache.keep("a")
    waiting = [desk.begin(f"{tenant}1", 50) for tenant in "bcdef"]
    await until_parked(desk, 5)
    release()
    await desk.cache.aclose()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    queue = desk.cache._loads._queue
    for left in (queue._queued, queue._begun, queue._parked, desk.cache._loads._runs, desk.cache._loads._parked):
        assert not left
    assert desk.models["a"].closed == 1


async def test_too_many_waiting_requests_of_a_tenant_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "WAITERS_PER_TENANT", 2)
    monkeypatch.setattr(loads, "WAITERS", 3)
    desk.gate.clear()
    waiting = [desk.begin(package) for package in ("a", "a", "b")]
    await desk.until_begun(2)
    for tenant in "ab":
        with pytest.raises(LoadQueueFullError) as caught:
            await desk.use(tenant)
        assert caught.value.retry_after_ms > 0
    waiting.append(desk.begin("c"))
    await desk.until_begun(3)
    desk.gate.set()
    assert await asyncio.gather(*waiting) == ["a", "a", "b", "c"]
    assert desk.cache.counts.refused == 2
    assert not desk.cache._loads._waiters


async def test_a_tenant_that_undoes_its_own_loads_gets_one_place(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    for number in range(10):
        await desk.use(f"a{number}", 60)
    desk.begun.clear()
    desk.gate.clear()
    for number in range(5):
        desk.begin(f"a{number}", 20)
        desk.begin(f"b{number}", 1)
    await desk.until_begun(3)
    await desk.turns(50)
    assert sorted(desk.begun) == ["a0", "b0", "b1", "b2"]


async def test_what_tenants_have_for_certain_and_at_most(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    desk.cache.set_limits(TenantRecord(tenant="a", guaranteed_bytes=40, max_bytes=50))
    for number in range(4):
        await desk.use(f"a{number}", 20)
    assert desk.cache.used_bytes == 40
    for number in range(10):
        await desk.use(f"b{number}", 20)
    assert sum(desk.cache.holds(f"a{number}") for number in range(4)) == 2
    with pytest.raises(ModelUnusableError, match="its tenant may have 50"):
        await desk.use("a9", 60)
    desk.cache.set_limits(TenantRecord(tenant="a"))
    assert await desk.use("a9", 60) == "a9"


async def test_the_hottest_come_with_the_name_they_are_asked_for_by(desk: Desk) -> None:
    for package, uses, asker in (("a", 2, "x"), ("b", 5, "x"), ("c", 1, "y")):
        for _ in range(uses):
            await desk.use(package, asker=asker)
    found = desk.cache.hottest(0)
    assert [(version.package, ref) for version, ref, _demand in found] == [
        ("b", ModelRef("x", "m")),
        ("a", ModelRef("x", "m")),
        ("c", ModelRef("y", "m")),
    ]
    assert [version.package for version, _ref, _demand in desk.cache.hottest(1)] == ["b"]
    desk.cache.purge("", {"b"})
    assert set(desk.cache._refs) == {"a", "c"}


async def test_less_memory_closes_models_and_more_lets_loads_go_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    await asyncio.gather(desk.use("a", 50), desk.use("b", 50))
    desk.cache.resize(60)
    assert (desk.cache.capacity_bytes, desk.cache.used_bytes, desk.evicted) == (60, 50, 1)
    assert desk.cache.counts.evictions == 1
    waiting = desk.begin("c", 80)
    await desk.turns(50)
    assert not waiting.done(), "it would fit into what there was before, so it isn't refused for good"
    desk.cache.resize(100)
    assert await waiting == "c"


async def test_closing_while_loads_wait_and_run_leaves_nothing(desk: Desk) -> None:
    desk.gate.clear()
    tasks = [desk.begin(f"{tenant}{number}") for tenant in "abc" for number in range(5)]
    await desk.until_begun(4)
    await desk.cache.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    queue = desk.cache._loads._queue
    assert not queue._queued
    assert not queue._begun
    assert not desk.cache._loads._runs
    assert desk.cache.used_bytes == 0


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), ModelUnusableError("broken")])
async def test_a_load_that_fails_gives_its_place_back(desk: Desk, error: Exception) -> None:
    for number in range(loads.AT_ONCE * 3):
        desk.errors[f"a{number}"] = error
        with pytest.raises(type(error)):
            await desk.use(f"a{number}")
        with pytest.raises(ScoreMeshError):
            await desk.use(f"a{number}")
    assert await desk.use("b") == "b"
