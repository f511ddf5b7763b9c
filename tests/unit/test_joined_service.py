"""A scorer's requests that are predicted together, and those that take long, with models that do as told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from registry.catalog import Catalog
from registry.etcd import Etcd
from registry.failure import Code
from registry.keys import Keys
from registry.model import ModelRecord, ModelRef
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_HIT,
    ScoreRequest,
    ScoreResponse,
    StreamScoreBatchRequest,
    StreamScoreBatchResponse,
)
from scorer.cache import Resident
from scorer.cost_curve import CostCurve
from scorer.engine import Rows
from tests.unit.test_rollout_service import REF, Bench, CallRecord, TinyModel, turns, version


class Watched(TinyModel):
    """`asked`: rows of each prediction; one on another thread than the loop's waits for the gate."""

    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__(name, events)
        self.asked: list[int] = []
        self.loop_thread = threading.get_ident()
        self.gate = threading.Event()
        self.begun = threading.Event()

    def predict(self, rows: Rows) -> list[np.ndarray]:
        self.asked.append(len(rows.dense))
        if threading.get_ident() != self.loop_thread:
            self.begun.set()
            assert self.gate.wait(30)
        return super().predict(rows)


class Stream(CallRecord):
    """A call that answers with a stream."""

    @property
    def results(self) -> dict[int, tuple[int, str]]:
        """Code and version by index, of what is in."""
        parts = [StreamScoreBatchResponse.FromString(answer) for answer in self.answers]
        return {r.index: (r.code, r.response.model_version) for part in parts for r in part.results}

    def respond(self, payload: bytes) -> None:
        self.answers.append(payload)

    def end(self) -> None:
        self.done.set()


class JoinBench(Bench):
    """Version 1 is joined from 3 rows on, version 2 never; 1 takes long from 100 rows on."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.watched = {name: Watched(name, self.events) for name in "123"}
        self.models = {**self.watched}
        self.costs = CostCurve(5.0, 3.0, 1.97)
        self.costs.batch_from, self.costs.short_rows = 3, 99

    async def _load(self, asked: object) -> Resident:
        resident = await super()._load(asked)  # type: ignore[arg-type]
        return resident._replace(costs=self.costs) if resident.model is self.models["1"] else resident

    def batch(self, *items: ScoreRequest, timeout_ms: tuple[int, ...] = ()) -> Stream:
        request = StreamScoreBatchRequest(items=items, timeout_ms=timeout_ms)
        call = Stream(request.SerializeToString(), self.events)
        self.service.stream_score_batch(call)
        return call


def asked(model: str, rows: int = 1, features: int = 1) -> ScoreRequest:
    return ScoreRequest(tenant="acme", model=model, row_count=rows, dense_double=[0.5] * (rows * features))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[JoinBench]:
    etcd = Etcd(["127.0.0.1:1"])
    catalog = Catalog(etcd, Keys("test"), open_store(f"file://{tmp_path}"))
    bench = JoinBench(catalog)
    fold = catalog._fold
    for name in "123":
        fold.finish(fold.begin(ModelRef("acme", f"m{name}")), 1, ModelRecord(1, {"live": version(name)}))
    fold.finish(fold.begin(REF), 1, ModelRecord(1, {"live": version("1")}))
    await bench.warm("1", "2")
    yield bench
    bench.watched["1"].gate.set()
    await bench.service.aclose()
    await bench.cache.aclose()
    await catalog.aclose()
    await etcd.aclose()


async def test_items_of_a_batch_are_joined_and_leave_in_one_message(bench: JoinBench) -> None:
    call = bench.batch(asked("m1"), asked("m2"), asked("m1"), asked("m1", 2), asked("m2"))
    assert call.done.is_set(), "at once"
    assert len(call.answers) == 1
    assert {index: found[1] for index, found in call.results.items()} == {0: "1", 1: "2", 2: "1", 3: "1", 4: "2"}
    assert bench.watched["1"].asked == [4]
    assert bench.watched["2"].asked == [1, 1]


async def test_too_few_items_are_predicted_one_by_one(bench: JoinBench) -> None:
    assert len(bench.batch(asked("m1"), asked("m1")).results) == 2
    assert bench.watched["1"].asked == [1, 1]


async def test_a_bad_item_of_a_joined_batch_fails_alone(bench: JoinBench) -> None:
    call = bench.batch(asked("m1"), asked("m1", features=2), asked("m1"), asked("m1"))
    assert {index: code for index, (code, _) in call.results.items()} == {0: 0, 1: Code.INVALID_ARGUMENT, 2: 0, 3: 0}
    assert bench.watched["1"].asked == [3]


async def test_score_calls_of_one_turn_of_the_loop_are_joined(bench: JoinBench) -> None:
    calls = [bench.ask() for _ in range(4)]
    assert not any(call.answers for call in calls)
    await turns(1)
    assert [await call.version() for call in calls] == ["1"] * 4
    assert bench.watched["1"].asked == [4]
    await bench.ask().version()
    assert bench.watched["1"].asked == [4, 1], "and begins anew"


async def test_a_model_that_is_purged_in_that_turn_still_answers(bench: JoinBench) -> None:
    calls = [bench.ask() for _ in range(3)]
    closed: list[object] = []
    bench.models["1"].close = lambda: closed.append(list(bench.watched["1"].asked))  # type: ignore[method-assign]
    bench.cache.purge("acme", {version("1").package})
    assert closed == []
    await turns(1)
    assert [await call.version() for call in calls] == ["1"] * 3
    assert closed == [[3]], "closed once, after the prediction"


async def test_a_model_that_is_not_joined_answers_inside_the_handler(bench: JoinBench) -> None:
    call = CallRecord(asked("m2").SerializeToString(), bench.events)
    bench.service.score(call)
    assert len(call.answers) == 1


async def begun(bench: JoinBench) -> None:
    assert await asyncio.to_thread(bench.watched["1"].begun.wait, 30)


async def test_short_requests_are_answered_while_a_long_one_runs(bench: JoinBench) -> None:
    long = bench.ask(rows=100)
    await begun(bench)
    call = bench.batch(asked("m1"), asked("m2"), asked("m1", 100))
    assert sorted(call.results) == [0, 1]
    assert not long.answers
    bench.watched["1"].gate.set()
    await long.version()
    answer = ScoreResponse.FromString(long.answers[0])
    assert len(answer.outputs[0].regression.values) == 100
    assert (answer.residency, answer.timing.load_us, answer.timing.fetch_us) == (RESIDENCY_HIT, 0, 0)
    assert answer.timing.score_us > 0
    async with asyncio.timeout(30):
        await call.done.wait()
    assert call.results[2] == (0, "1")


async def test_a_long_request_whose_time_is_over(bench: JoinBench) -> None:
    first = bench.ask(rows=100)
    await begun(bench)
    second = bench.batch(asked("m1", 100), timeout_ms=(30,))
    async with asyncio.timeout(30):
        await second.done.wait()
    (result,) = [r for a in second.answers for r in StreamScoreBatchResponse.FromString(a).results]
    assert (result.code, result.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert "had not begun" in result.message
    bench.watched["1"].gate.set()
    await first.version()
    assert bench.watched["1"].asked == [100]


async def test_a_caller_that_goes_leaves_the_model_in_memory_until_its_prediction_ends(bench: JoinBench) -> None:
    closed: list[bool] = []
    bench.models["1"].close = lambda: closed.append(bench.watched["1"].gate.is_set())  # type: ignore[method-assign]
    call = bench.ask(rows=100)
    await begun(bench)
    assert call.on_cancel is not None
    call.on_cancel()
    await turns(3)
    bench.cache.purge("acme", {version("1").package})
    await turns(3)
    assert closed == []
    bench.watched["1"].gate.set()
    async with asyncio.timeout(30):
        while not closed:
            await asyncio.sleep(0.001)
    assert closed == [True]


async def test_a_canary_that_takes_long_runs_there_too(bench: JoinBench) -> None:
    tally = bench.begin(100.0, canary="2")
    bench.watched["1"].gate.set()
    assert await bench.ask(rows=100).version() == "2"
    bench.models["2"].error = ValueError("no")
    assert await bench.ask(rows=100).version() == "1", "the alias's version, on the thread"
    assert bench.watched["1"].begun.is_set()
    assert (tally.canary.requests, tally.canary.errors) == (2, 1)


async def test_wrong_rows_of_a_long_request(bench: JoinBench) -> None:
    call = CallRecord(asked("m1", 100, features=2).SerializeToString(), bench.events)
    bench.service.score(call)
    async with asyncio.timeout(30):
        await call.done.wait()
    assert call.failures[0].reason == "INVALID_FEATURES"
    assert bench.watched["1"].asked == []
