"""A scorer's requests while a canary or a shadow runs, with models that fail and hang as told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from math import inf
from pathlib import Path

import numpy as np
import pytest

from registry.catalog import Catalog
from registry.errors import InvalidFeaturesError, ModelUnusableError, StoreUnavailableError
from registry.etcd import Etcd
from registry.failure import Code, Failure
from registry.keys import Keys
from registry.model import (
    ModelRecord,
    ModelRef,
    ModelSchema,
    ModelVersion,
    OutputKind,
    OutputSchema,
    Rollout,
    Runtime,
)
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_COLD,
    RESIDENCY_HIT,
    ScoreBatchRequest,
    ScoreBatchResponse,
    ScoreRequest,
    ScoreResponse,
)
from scorer import shadow, standby
from scorer.cache import ModelCache, Resident
from scorer.engine import Rows
from scorer.in_flight import LOOP, BlackBox, InFlight
from scorer.rollout_tally import RolloutTally
from scorer.service import ScoringService

REF = ModelRef("acme", "fraud")
SCHEMA = ModelSchema(("f",), (OutputSchema("value", OutputKind.REGRESSION),))


class TinyModel:
    """Adds `bias` to its feature; `error` is raised instead."""

    resident_bytes = 0

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events
        self.bias, self.error = float(name), None

    bias: float
    error: Exception | None

    def predict(self, rows: Rows) -> list[np.ndarray]:
        self.events.append(f"predict {self.name}")
        if self.error is not None:
            raise self.error
        return [rows.dense[:, 0].astype(np.float64) + self.bias]

    def close(self) -> None: ...


class CallRecord:
    """What a call was answered with."""

    def __init__(self, payload: bytes, events: list[str], deadline: float = inf) -> None:
        self.payload, self.deadline, self._events = payload, deadline, events
        self.on_cancel: Callable[[], None] | None = None
        self.answers: list[bytes] = []
        self.failures: list[Failure] = []
        self.done = asyncio.Event()

    def respond(self, payload: bytes) -> None:
        self._events.append("answer")
        self.answers.append(payload)
        self.done.set()

    def end(self) -> None:
        raise AssertionError("not a stream")

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.done.set()

    async def version(self) -> str:
        async with asyncio.timeout(10):
            await self.done.wait()
        assert not self.failures, self.failures
        (answer,) = self.answers
        return str(ScoreResponse.FromString(answer).model_version)


class Bench:
    """A scorer's inside with the versions 1 (live), 2 and 3. `held`: loads that wait; `refused`: those that fail."""

    def __init__(self, catalog: Catalog) -> None:
        self.events: list[str] = []
        self.models = {name: TinyModel(name, self.events) for name in "123"}
        self.held: dict[str, asyncio.Event] = {}
        self.refused: dict[str, Exception] = {}
        self.cache = ModelCache(10_000, self._load)
        self.catalog = catalog
        self.service = ScoringService(catalog, self.cache, "me")

    async def _load(self, version: ModelVersion) -> Resident:
        self.events.append(f"load {version.version}")
        await asyncio.sleep(0)
        if version.version in self.held:
            await self.held[version.version].wait()
        if version.version in self.refused:
            raise self.refused[version.version]
        return Resident(self.models[version.version], SCHEMA, 100, RESIDENCY_COLD, 1, 1)

    def begin(self, percent: float = 0.0, *, canary: str = "", shadow: str = "") -> RolloutTally:
        """Let this run beside live; returns its tally."""
        beside = {name: version(name) for name in "23"}
        rollout = Rollout("r", beside.get(canary), percent, beside.get(shadow))
        fold = self.catalog._fold
        fold.finish(fold.begin(REF), 1, ModelRecord(1, {"live": version("1", rollout)}))
        return self.service.tallies.of(version("1"), rollout)

    async def warm(self, *names: str) -> None:
        for name in names:
            async with self.cache.borrow(version(name)):
                pass
        self.events.clear()

    def ask(self, *, deadline: float = inf, rows: int = 1, key: str = "", number: str = "") -> CallRecord:
        request = ScoreRequest(tenant="acme", model="fraud", row_count=rows, dense_double=[0.5] * rows, entity_key=key)
        if number:
            request.version = number
        call = CallRecord(request.SerializeToString(), self.events, deadline)
        self.service.score(call)
        return call


def version(name: str, rollout: Rollout | None = None) -> ModelVersion:
    return ModelVersion(name, f"package-{name}", "acme", "0" * 64, "0" * 64, Runtime.LIGHTGBM, 1, 100, rollout)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Its catalog holds all that is asked for, so nobody connects to the etcd that isn't there. No call counts as long
    because the machine is busy.
    """
    monkeypatch.setattr(shadow, "LONG_US", 60_000_000)
    etcd = Etcd(["127.0.0.1:1"])
    catalog = Catalog(etcd, Keys("test"), open_store(f"file://{tmp_path}"))
    bench = Bench(catalog)
    yield bench
    await bench.service.aclose()
    await bench.cache.aclose()
    await catalog.aclose()
    await etcd.aclose()


def counts(tally: RolloutTally) -> tuple[int, int, int, int]:
    """Requests and errors of the alias's version, then of the canary."""
    return (tally.stable.requests, tally.stable.errors, tally.canary.requests, tally.canary.errors)


async def loaded(bench: Bench, name: str) -> None:
    async with asyncio.timeout(10):
        while bench.cache.peek(version(name).package) is None:
            await asyncio.sleep(0)


async def turns(count: int) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


class Stopwatch:
    """A clock that goes on by what is told between the second and the third of its calls in a repeat: the predict."""

    def __init__(self, took_s: Callable[[], float]) -> None:
        self._took_s, self._calls, self._now = took_s, 0, 0.0

    def __call__(self) -> float:
        self._calls += 1
        if self._calls % 4 == 3:
            self._now += self._took_s()
        return self._now


async def no_loads(bench: Bench) -> None:
    async with asyncio.timeout(10):
        while bench.service._standby._loading:
            await asyncio.sleep(0)


async def settled(tally: RolloutTally, requests: int) -> None:
    async with asyncio.timeout(10):
        while tally.shadow.requests + tally.shadow.skipped < requests:
            await asyncio.sleep(0)


async def test_each_version_answers_its_entities_and_counts_them(bench: Bench) -> None:
    await bench.warm("1", "2")
    tally = bench.begin(30.0, canary="2")
    first = {key: await bench.ask(key=key).version() for key in map(str, range(300))}
    assert {key: await bench.ask(key=key).version() for key in first} == first
    canaries = sum(version == "2" for version in first.values())
    assert 60 < canaries < 120
    assert counts(tally) == (600 - 2 * canaries, 0, 2 * canaries, 0)
    assert tally.stable.score_sum / tally.stable.score_count == 1.5
    assert tally.canary.score_sum / tally.canary.score_count == 2.5
    more = bench.begin(60.0, canary="2")
    assert more is tally
    for key, before in first.items():
        if before == "2":
            assert await bench.ask(key=key).version() == "2"


async def test_who_asks_by_number_takes_no_part(bench: Bench) -> None:
    await bench.warm("1", "2", "3")
    tally = bench.begin(100.0, canary="2", shadow="3")
    for number in "123":
        assert await bench.ask(number=number).version() == number
    assert counts(tally) == (0, 0, 0, 0)


async def test_without_a_key_the_share_is_right(bench: Bench) -> None:
    await bench.warm("1", "2")
    bench.begin(30.0, canary="2")
    versions = [await bench.ask().version() for _ in range(200)]
    assert abs(versions.count("2") - 60) <= 2


async def test_a_key_that_is_too_long_is_refused(bench: Bench) -> None:
    await bench.warm("1")
    for begun in (False, True):
        bench.begin(0.0, canary="2" if begun else "")
        assert bench.ask(key="k" * 128).answers
        (failure,) = bench.ask(key="é" * 65).failures
        assert (failure.code, failure.message) == (Code.INVALID_ARGUMENT, "entity_key is over 128 bytes")


@pytest.mark.parametrize("error", [ModelUnusableError("broken"), RuntimeError("bug"), InvalidFeaturesError("other")])
async def test_a_canary_that_fails_fails_no_caller(bench: Bench, error: Exception) -> None:
    await bench.warm("1", "2")
    bench.models["2"].error = error
    tally = bench.begin(100.0, canary="2")
    call = bench.ask()
    assert call.answers  # at once, without a task
    assert await call.version() == "1"
    assert counts(tally) == (0, 0, 1, 1)


async def test_bad_features_are_refused_and_count_for_nobody(bench: Bench) -> None:
    await bench.warm("1", "2")
    tally = bench.begin(100.0, canary="2")
    request = ScoreRequest(tenant="acme", model="fraud", row_count=1, dense_double=[1.0, 2.0])
    call = CallRecord(request.SerializeToString(), bench.events)
    bench.service.score(call)
    (failure,) = call.failures
    assert failure.reason == "INVALID_FEATURES"
    assert counts(tally) == (0, 0, 0, 0)


@pytest.mark.parametrize("warm", [("1",), ()])
async def test_nobody_waits_for_a_canary_that_is_not_in_memory(bench: Bench, warm: tuple[str, ...]) -> None:
    await bench.warm(*warm)
    bench.held["2"] = asyncio.Event()
    tally = bench.begin(100.0, canary="2")
    for _ in range(3):
        call = bench.ask()
        assert bool(call.answers) == ("1" in warm)  # at once, without a task
        assert await call.version() == "1"
        warm = ("1",)
    assert counts(tally) == (0, 0, 0, 0)
    bench.held["2"].set()
    await loaded(bench, "2")
    assert await bench.ask().version() == "2"
    assert bench.events.count("load 2") == 1
    assert counts(tally) == (0, 0, 1, 0)


async def test_without_the_catalog_in_memory_nobody_waits_for_a_canary_either(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.held["2"] = asyncio.Event()
    bench.begin(100.0, canary="2")
    monkeypatch.setattr(bench.catalog, "lookup", lambda *_asked: None)
    for residency in (RESIDENCY_COLD, RESIDENCY_HIT):
        call = bench.ask()
        assert await call.version() == "1"
        assert ScoreResponse.FromString(call.answers[0]).residency == residency


@pytest.mark.parametrize(("error", "counted"), [(ModelUnusableError("broken"), 1), (StoreUnavailableError("away"), 0)])
@pytest.mark.parametrize("warm", [("1",), ()])
async def test_a_canary_that_can_not_be_loaded_fails_no_caller(
    bench: Bench, warm: tuple[str, ...], error: Exception, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request that it should have answered counts against it as soon as that is known; it isn't loaded for each,
    but again after a while.
    """
    await bench.warm(*warm)
    bench.refused["2"] = error
    tally = bench.begin(100.0, canary="2")
    call = bench.ask()
    assert await call.version() == "1"
    assert ScoreResponse.FromString(call.answers[0]).residency == (RESIDENCY_HIT if warm else RESIDENCY_COLD)
    await no_loads(bench)
    for _ in range(30):
        assert await bench.ask().version() == "1"
        await no_loads(bench)
    assert counts(tally) == (0, 0, 30 * counted, 30 * counted)
    assert bench.events.count("load 2") == 1
    monkeypatch.setattr(standby, "PAUSE_S", 0.0)
    bench.service._standby._known["package-2"].not_before = 0.0
    bench.cache.purge("", {"package-2"})
    del bench.refused["2"]
    assert await bench.ask().version() == "1"
    await loaded(bench, "2")
    assert await bench.ask().version() == "2"
    assert counts(tally) == (0, 0, 31 * counted + 1, 31 * counted)


async def test_what_is_known_of_versions_beside_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "CAPACITY", 2)
    for name in "123":
        bench.refused[name] = ModelUnusableError("broken")
        bench.service._standby.bring(version(name))
    await no_loads(bench)
    assert [bench.service._standby.bring(version(name)) for name in "23"] == [True, True]
    assert list(bench.service._standby._known) == ["package-2", "package-3"]


async def test_data_that_both_versions_refuse_count_for_nobody(bench: Bench) -> None:
    await bench.warm("1", "2")
    for name in "12":
        bench.models[name].error = ModelUnusableError("it refuses a NaN")
    tally = bench.begin(100.0, canary="2")
    (failure,) = bench.ask().failures
    assert failure.code == Code.FAILED_PRECONDITION
    assert counts(tally) == (0, 0, 0, 0)


async def test_both_hanging_is_the_deadline(bench: Bench) -> None:
    bench.held = {"1": asyncio.Event(), "2": asyncio.Event()}
    tally = bench.begin(100.0, canary="2")
    call = bench.ask(deadline=asyncio.get_running_loop().time() + 0.2)
    async with asyncio.timeout(10):
        await call.done.wait()
    assert call.failures[0].code == Code.DEADLINE_EXCEEDED
    assert counts(tally) == (0, 0, 0, 0)


async def test_each_item_of_a_batch_is_answered_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when counting goes wrong after the answer."""
    await bench.warm("1", "2")
    bench.models["2"].error = ModelUnusableError("broken")
    bench.begin(50.0, canary="2")

    def fail(_tally: RolloutTally) -> None:
        raise RuntimeError("a bug of the counting")

    monkeypatch.setattr("scorer.trial.Trial.answered", fail)
    items = [ScoreRequest(tenant="acme", model="fraud", row_count=1, dense_double=[0.5]) for _ in range(40)]
    call = CallRecord(ScoreBatchRequest(items=items).SerializeToString(), bench.events)
    bench.service.score_batch(call)
    (answer,) = call.answers
    results = ScoreBatchResponse.FromString(answer).results
    assert [result.index for result in results] == list(range(40))
    assert {result.response.model_version for result in results} == {"1"}


async def test_a_shadow_scores_what_was_answered_and_afterwards(bench: Bench) -> None:
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    calls = [bench.ask(rows=2) for _ in range(5)]
    assert bench.events == ["predict 1", "answer"] * 5
    await settled(tally, 5)
    assert bench.events[10:] == ["predict 3"] * 5
    assert {await call.version() for call in calls} == {"1"}
    seen = tally.shadow
    assert (seen.requests, seen.errors, seen.skipped, seen.score_count) == (5, 0, 0, 10)
    assert (seen.abs_difference_sum, seen.abs_difference_max) == (20.0, 2.0)
    assert counts(tally) == (5, 0, 0, 0)


async def test_what_is_predicted_is_in_flight_and_nothing_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    with contextlib.closing(BlackBox()) as box:
        bench.service = ScoringService(bench.catalog, bench.cache, "me", InFlight(box.memory_fd))
        await bench.warm("1", "3")
        tally = bench.begin(shadow="3")
        bench.models["3"].error = RuntimeError("the shadow fails")

        def predict(model: TinyModel, rows: Rows, plain: Callable[..., list[np.ndarray]] = TinyModel.predict) -> object:
            seen.append((model.name, box.read().packages[LOOP]))
            return plain(model, rows)

        monkeypatch.setattr(TinyModel, "predict", predict)
        bench.ask()
        assert box.read().packages == ("", "", "")
        await settled(tally, 1)
        assert box.read().packages == ("", "", "")
        bench.models["1"].error = RuntimeError("so does the other one")
        assert bench.ask().failures
        assert box.read().packages == ("", "", "")
    assert seen == [("1", "package-1"), ("3", "package-3"), ("1", "package-1")]


async def test_a_shadow_yields_to_requests(bench: Bench) -> None:
    """As long as each turn of the loop brings a request, none is repeated."""
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    for _ in range(50):
        bench.ask()
        await asyncio.sleep(0)
    assert bench.events == ["predict 1", "answer"] * 50
    await settled(tally, 50)
    assert tally.shadow.requests == 50


async def test_what_is_queued_for_a_shadow_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    for _ in range(shadow.CAPACITY_REQUESTS + 44):
        bench.ask()
    assert tally.shadow.skipped == 44
    await settled(tally, shadow.CAPACITY_REQUESTS + 44)
    assert tally.shadow.requests == shadow.CAPACITY_REQUESTS
    monkeypatch.setattr(shadow, "CAPACITY_BYTES", 2000)
    for _ in range(10):
        bench.ask(rows=100)
    assert tally.shadow.skipped == 44 + 8  # the second one goes over the bound, and no more come in


async def test_long_requests_are_not_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.warm("1", "3")
    monkeypatch.setattr(shadow, "LONG_US", -1)
    tally = bench.begin(shadow="3")
    bench.ask()
    assert (tally.shadow.skipped, len(bench.service._shadows._queue)) == (1, 0)


async def test_a_shadow_that_is_not_in_memory_is_loaded(bench: Bench) -> None:
    await bench.warm("1")
    tally = bench.begin(shadow="3")
    assert await bench.ask().version() == "1"
    await settled(tally, 1)
    assert tally.shadow.skipped == 1
    await loaded(bench, "3")
    bench.ask()
    await settled(tally, 2)
    assert tally.shadow.requests == 1


async def test_a_shadow_that_fails_is_counted(bench: Bench) -> None:
    await bench.warm("1", "3")
    bench.models["3"].error = ModelUnusableError("broken")
    tally = bench.begin(shadow="3")
    assert await bench.ask().version() == "1"
    await settled(tally, 1)
    bench.models["3"].error = None
    bench.models["3"].bias = inf
    bench.ask()
    await settled(tally, 2)
    assert (tally.shadow.requests, tally.shadow.errors, tally.shadow.score_count) == (2, 2, 0)


async def test_what_the_canary_answered_has_no_shadow(bench: Bench) -> None:
    await bench.warm("1", "2", "3")
    tally = bench.begin(100.0, canary="2", shadow="3")
    assert await bench.ask().version() == "2"
    bench.models["2"].error = ModelUnusableError("broken")
    assert await bench.ask().version() == "1"
    assert not bench.service._shadows._queue
    assert tally.shadow.skipped == 0


async def test_a_shadow_that_is_broken_is_counted_and_not_loaded_for_each_request(bench: Bench) -> None:
    await bench.warm("1")
    bench.refused["3"] = ModelUnusableError("broken")
    tally = bench.begin(shadow="3")
    bench.ask()
    await settled(tally, 1)
    await no_loads(bench)
    for number in range(2, 6):
        bench.ask()
        await settled(tally, number)
    assert (tally.shadow.skipped, tally.shadow.errors) == (1, 4)
    assert bench.events.count("load 3") == 1


async def test_a_shadow_rests_also_after_the_last_request_of_its_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second in each predict of the shadow."""
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr(shadow, "perf_counter", lambda: next(ticks))
    bench.ask()
    await settled(tally, 1)
    bench.ask()
    await turns(50)
    assert tally.shadow.requests == 1
    timer = bench.service._shadows._timer
    assert timer is not None
    assert timer.when() > asyncio.get_running_loop().time() + 9 * 0.5
    bench.service._shadows.forget("acme", set())
    assert bench.service._shadows._timer is timer, "the rest goes on when its queue was dropped"


async def test_a_shadow_that_is_slow_is_skipped_by_what_it_took(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    took_us = 20_000_000
    monkeypatch.setattr(shadow, "perf_counter", Stopwatch(lambda: took_us / 1e6))
    monkeypatch.setattr(shadow, "_REST", 0)
    for number in range(5):
        bench.ask()
        await settled(tally, number + 1)
    assert (tally.shadow.requests, tally.shadow.skipped) == (5, 0)
    took_us = 3_000_000_000
    for number in range(20):
        bench.ask()
        await settled(tally, number + 6)
    assert (tally.shadow.requests, tally.shadow.skipped) == (7, 18), "one to see it, one to try it again"


async def test_scores_that_wait_for_a_shadow_are_counted_and_hold_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    monkeypatch.setattr(shadow, "CAPACITY_BYTES", 20_000)
    whole = np.ones((1000, 200))
    request = ScoreRequest(tenant="acme", model="fraud", row_count=1000)
    for _ in range(10):
        bench.service._shadows.offer(request, version("3"), [whole], 10, tally.shadow)
    queue = bench.service._shadows._queue
    assert (len(queue), tally.shadow.skipped) == (3, 7)
    assert all(repeat.scores.base is None for repeat in queue)


async def test_a_tenant_that_is_forgotten_leaves_nothing(bench: Bench) -> None:
    await bench.warm("1", "3")
    tally = bench.begin(shadow="3")
    bench.ask()
    await settled(tally, 1)
    bench.ask()
    bench.service.forget("acme", set())
    shadows = bench.service._shadows
    assert (len(shadows._queue), shadows._queued_bytes, len(shadows._paces)) == (0, 0, 0)
    assert not bench.service._plans
    assert len(bench.service.tallies) == 0
    bench.ask()
    (anew,) = bench.service.tallies._held.values()
    await settled(anew, 1)
    assert (tally.shadow.requests, anew.shadow.requests) == (1, 1)


async def test_a_package_that_is_forgotten_is_not_loaded_again_by_what_was_queued(bench: Bench) -> None:
    await bench.warm("1", "3")
    bench.begin(shadow="3")
    bench.ask()
    bench.events.clear()
    bench.service.forget("", {"package-3"})
    bench.cache.purge("", {"package-3"})
    assert bench.service.tallies.find("r") is None
    await turns(50)
    assert bench.events == []


async def test_a_version_that_waits_to_be_loaded_is_forgotten(bench: Bench) -> None:
    await bench.warm("1")
    names = [str(number) for number in range(10, 20)]
    bench.held = {name: asyncio.Event() for name in names}
    for name in names:
        bench.models[name] = TinyModel(name, bench.events)
        bench.service._standby.bring(version(name))
    await turns(5)
    begun = len(bench.events)
    assert begun < len(names), "a few at a time"
    bench.service.forget("", {version(name).package for name in names[:9]})
    for event in bench.held.values():
        event.set()
    await loaded(bench, names[9])
    assert bench.events[begun:] == [f"load {names[9]}"]
    assert list(bench.service._standby._known) == [version(names[9]).package]
