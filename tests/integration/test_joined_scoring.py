"""Joined and long predictions, where the time went, and refusals: a whole scorer with real models, over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc.aio
import lightgbm
import numpy as np
import pytest

from client.errors import ScoreError, error_of_call
from ops.etcd_server import EtcdServer
from registry.errors import QuarantinedError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.layout import artifact_path
from registry.manifest import Manifest
from registry.model import ModelRef
from registry.offer import Admitted, Offer
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_COLD,
    RESIDENCY_HIT,
    ScoreBatchRequest,
    ScoreBatchResponse,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
    StreamScoreBatchRequest,
    StreamScoreBatchResponse,
)
from scorer.config import parse
from scorer.engine import Rows, engine_for
from scorer.resident import Resident
from scorer.server import SERVICE, Scorer
from tests.integration import publishing
from tests.integration.conftest import WaitUntil

ROWS = np.random.default_rng(1).normal(size=(200, 5))
TREES, NET = ModelRef("acme", "trees"), ModelRef("acme", "net")
PATIENCE_S = 60.0


@cache
def trees() -> lightgbm.Booster:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    return lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] * ROWS[:, 1] > 0), 30)


@cache
def net() -> bytes:
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor

    made = MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", max_iter=10_000, random_state=1)
    made.fit(ROWS, ROWS[:, 0] * ROWS[:, 1])
    return bytes(to_onnx(made, ROWS[:1].astype(np.float32)).SerializeToString())


async def known_admit(offer: Offer) -> Admitted:
    return Admitted(offer.data, engine_for(offer.runtime).describe(offer.data), 200_000, {"1": 2.0, "64": 20.0})


class Desk:
    """A scorer with both models in its store."""

    def __init__(self, scorer: Scorer, etcd: Etcd, keys: Keys, folder: Path) -> None:
        self.scorer, self.folder = scorer, folder
        self.publisher = publishing.publisher(open_store(f"file://{folder}/store"), etcd, keys, known_admit)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{scorer.front.port}")
        self.booster = trees()

    async def publish(self, ref: ModelRef, data: bytes, ending: str) -> Manifest:
        path = self.folder / f"{uuid.uuid4().hex}.{ending}"
        path.write_bytes(data)
        return await self.publisher.publish(path, ref)

    async def score(self, request: ScoreRequest, timeout_s: float = PATIENCE_S) -> ScoreResponse:
        """Raises ScoreError."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{SERVICE}/Score")
        try:
            return ScoreResponse.FromString(await call(request.SerializeToString(), timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error

    async def batch(self, items: list[ScoreRequest]) -> list[ScoreResult]:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{SERVICE}/ScoreBatch")
        answer = await call(ScoreBatchRequest(items=items).SerializeToString(), timeout=PATIENCE_S)
        return list(ScoreBatchResponse.FromString(answer).results)

    async def stream(self, items: list[ScoreRequest], timeout_ms: int = 0) -> list[list[ScoreResult]]:
        """Results by message."""
        times = [timeout_ms] * len(items) if timeout_ms else []
        payload = StreamScoreBatchRequest(items=items, timeout_ms=times).SerializeToString()
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(
            f"/{SERVICE}/StreamScoreBatch"
        )
        parts = [part async for part in call(payload, timeout=PATIENCE_S)]
        return [list(StreamScoreBatchResponse.FromString(part).results) for part in parts]

    async def warm(self, ref: ModelRef) -> Resident:
        """Have it in memory; joined from two rows on, and never long."""
        await self.score(ask(ref, 0))
        resident = self.scorer._cache.peek((await self.scorer._catalog.resolve(ref, "", "")).package)
        assert resident is not None
        resident.costs.batch_from, resident.costs.short_rows = 2, 1000
        return resident


def ask(ref: ModelRef, first: int, rows: int = 1, **fields: Any) -> ScoreRequest:
    dense = ROWS[first : first + rows].ravel()
    return ScoreRequest(tenant=ref.tenant, model=ref.model, row_count=rows, dense_double=dense, **fields)


def counted(resident: Resident) -> list[int]:
    """The rows of each prediction from now on."""
    asked: list[int] = []
    model: Any = resident.model
    predict = model.predict

    def spy(rows: Rows) -> list[np.ndarray]:
        asked.append(len(rows.dense))
        answer: list[np.ndarray] = predict(rows)
        return answer

    model.predict = spy
    return asked


class Gate:
    """Holds a model's long predictions."""

    def __init__(self, resident: Resident) -> None:
        self._open, self._begun = threading.Event(), threading.Event()
        model: Any = resident.model
        predict = model.predict_unlocked

        def held(rows: Rows) -> list[np.ndarray]:
            self._begun.set()
            assert self._open.wait(PATIENCE_S)
            answer: list[np.ndarray] = predict(rows)
            return answer

        model.predict_unlocked = held
        self.open = self._open.set

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, PATIENCE_S)


@contextlib.asynccontextmanager
async def running(server: EtcdServer, keys: Keys, folder: Path) -> AsyncIterator[Desk]:
    cluster = keys.models_prefix.decode().split("/")[2]
    arguments = ["--listen", "127.0.0.1:0", "--etcd", server.endpoint, "--cluster", cluster, "--drain-s", "20"]
    arguments += ["--store", f"file://{folder}/store", "--cache-dir", f"{folder}/cache", "--capacity-mib", "8"]
    etcd = Etcd([server.endpoint])
    scorer = Scorer(parse(arguments))
    async with scorer.running():
        desk = Desk(scorer, etcd, keys, folder)
        await desk.publish(TREES, desk.booster.model_to_string().encode(), "txt")
        await desk.publish(NET, net(), "onnx")
        yield desk
    await desk.channel.close()
    await etcd.aclose()


@pytest.fixture
async def desk(etcd_server: EtcdServer, keys: Keys, tmp_path: Path) -> AsyncIterator[Desk]:
    async with running(etcd_server, keys, tmp_path) as desk:
        yield desk


def probabilities(response: ScoreResponse) -> np.ndarray:
    return np.array(response.outputs[0].class_probabilities.probabilities).reshape(-1, 2)[:, 1]


async def test_a_batch_for_one_model_is_one_prediction(desk: Desk) -> None:
    asked = counted(await desk.warm(TREES))
    items = [ask(TREES, place, 1 + place % 3, request_id=str(place)) for place in range(64)]
    wanted = [desk.booster.predict(ROWS[place : place + 1 + place % 3], num_threads=1) for place in range(64)]
    (streamed,) = await desk.stream(items)
    for results in (streamed, await desk.batch(items)):
        for place, result in enumerate(results):
            assert (result.index, result.code, result.response.request_id) == (place, 0, str(place))
            assert probabilities(result.response).tobytes() == np.asarray(wanted[place]).tobytes()
    assert asked == [sum(item.row_count for item in items)] * 2


async def test_two_models_and_a_bad_item_in_a_batch(desk: Desk) -> None:
    trees_asked, net_asked = counted(await desk.warm(TREES)), counted(await desk.warm(NET))
    alone = [await desk.score(ask(NET, place)) for place in range(3)]
    net_asked.clear()
    items = [ask(NET, 0), ask(TREES, 0), ask(NET, 1), ask(TREES, 1), ask(NET, 2)]
    items.insert(2, ScoreRequest(tenant="acme", model="net", row_count=1, dense_double=[1.0]))
    results = await desk.batch(items)
    assert [result.code for result in results] == [0, 0, grpc.StatusCode.INVALID_ARGUMENT.value[0], 0, 0, 0]
    assert results[2].reason == "INVALID_FEATURES"
    for response, place in zip(alone, (0, 3, 5), strict=True):
        found = results[place].response.outputs[0].regression.values
        np.testing.assert_allclose(found, response.outputs[0].regression.values, rtol=1e-5, atol=1e-6)
    assert (trees_asked, net_asked) == ([2], [3])


async def test_many_score_calls_at_a_time_are_each_answered_rightly(desk: Desk) -> None:
    asked = counted(await desk.warm(TREES))
    wanted = desk.booster.predict(ROWS, num_threads=1)
    answers = await asyncio.gather(*(desk.score(ask(TREES, place)) for place in range(200)))
    assert np.concatenate([probabilities(answer) for answer in answers]).tobytes() == np.asarray(wanted).tobytes()
    assert sum(asked) == 200


async def test_short_requests_are_answered_beside_a_long_one(desk: Desk) -> None:
    resident = await desk.warm(TREES)
    resident.costs.short_rows = 99
    gate = Gate(resident)
    long = asyncio.create_task(desk.score(ask(TREES, 0, 150)))
    await gate.begun()
    for place in range(5):
        assert (await desk.score(ask(TREES, place))).residency == RESIDENCY_HIT
    gate.open()
    answer = await long
    assert probabilities(answer).tobytes() == np.asarray(desk.booster.predict(ROWS[:150], num_threads=1)).tobytes()


async def test_long_requests_that_find_no_room_or_no_time(desk: Desk) -> None:
    resident = await desk.warm(TREES)
    resident.costs.short_rows = 99
    gate = Gate(resident)
    long = asyncio.create_task(desk.score(ask(TREES, 0, 100)))
    await gate.begun()
    ((late,),) = [part for part in await desk.stream([ask(TREES, 0, 100)], timeout_ms=50) if part]
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "DEADLINE_EXCEEDED")
    desk.scorer._service._lane._room.free = 1
    with pytest.raises(ScoreError) as caught:
        await desk.score(ask(TREES, 0, 100))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    (result,) = await desk.batch([ask(TREES, 0, 100)])
    assert (result.code, result.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")
    assert min(caught.value.retry_after_ms, result.retry_after_ms) > 0
    gate.open()
    assert len(probabilities(await long)) == 100


async def test_a_drain_waits_for_a_long_request(
    etcd_server: EtcdServer, keys: Keys, tmp_path: Path, wait_until: WaitUntil
) -> None:
    serving = running(etcd_server, keys, tmp_path)
    desk = await serving.__aenter__()
    resident = await desk.warm(TREES)
    resident.costs.short_rows = 99
    gate = Gate(resident)
    long = asyncio.create_task(desk.score(ask(TREES, 0, 100)))
    await gate.begun()
    stopping = asyncio.create_task(serving.__aexit__(None, None, None))
    await wait_until(lambda: desk.scorer._draining)
    gate.open()
    assert len(probabilities(await long)) == 100
    await stopping


async def test_where_the_time_went(desk: Desk) -> None:
    cold = await desk.score(ask(TREES, 0))
    assert cold.residency == RESIDENCY_COLD
    timing = cold.timing
    assert min(timing.fetch_us, timing.verify_us, timing.load_us) > 0
    assert timing.wait_us >= timing.queue_us + timing.fetch_us + timing.verify_us + timing.load_us
    warm = (await desk.score(ask(TREES, 0))).timing
    assert (warm.wait_us, warm.fetch_us, warm.verify_us, warm.load_us, warm.queue_us) == (0, 0, 0, 0, 0)


async def both(desk: Desk, request: ScoreRequest) -> tuple[ScoreError, ScoreResult]:
    """A request that's refused, by itself and in a batch."""
    with pytest.raises(ScoreError) as caught:
        await desk.score(request)
    (result,) = await desk.batch([request])
    assert (caught.value.code.value[0], caught.value.reason) == (result.code, result.reason)
    return caught.value, result


async def test_a_load_that_is_known_to_fail(desk: Desk) -> None:
    manifest = await desk.publish(
        ModelRef("acme", "gone"), desk.booster.model_to_string(num_iteration=9).encode(), "txt"
    )
    (desk.folder / "store" / artifact_path("acme", manifest.artifact)).unlink()
    request = ask(ModelRef("acme", "gone"), 0)
    with pytest.raises(ScoreError):
        await desk.score(request)
    error, result = await both(desk, request)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    assert 0 < result.retry_after_ms <= error.retry_after_ms <= 5000


async def test_a_load_that_takes_longer_than_there_is_time(desk: Desk) -> None:
    version = await desk.scorer._catalog.resolve(TREES, "", "")
    for _ in range(20):
        desk.scorer._cache._loads._estimate.learn(version, from_disk=False, fetch_us=600e6, engine_us=1000)
    error, result = await both(desk, ask(TREES, 0))
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT")
    assert min(error.retry_after_ms, result.retry_after_ms) > PATIENCE_S * 1000


async def test_a_model_in_quarantine(desk: Desk) -> None:
    desk.scorer._cache._refusal = lambda _: QuarantinedError("it ended two scorers", retry_after_ms=3_600_000)
    error, result = await both(desk, ask(NET, 0))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED")
    assert (error.retry_after_ms, result.retry_after_ms) == (3_600_000, 3_600_000)
