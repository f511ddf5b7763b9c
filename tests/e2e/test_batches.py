"""Batches: every item has its own fate, the order is kept, and nobody waits for a neighbour's cold model."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from client import AsyncClient, ScoreError, ScoreItem, Scores
from ops.demo_models import DemoModel
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch
from scoremesh.scoring.v1.scoring_pb2 import (
    ScoreBatchRequest,
    ScoreBatchResponse,
    ScoreRequest,
    ScoreResult,
    StreamScoreBatchRequest,
    StreamScoreBatchResponse,
)
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf
from tests.e2e.raw import PATIENCE_S, SERVICE, check_plain, stream_of, unary_of

_TUMOUR = ScoreRequest(tenant="acme", model="tumour", row_count=1, dense_double=[0.5] * 30)


def _right(result: Scores | ScoreError, model: DemoModel, rows: int) -> bool:
    assert isinstance(result, Scores)
    (output,) = result.outputs.values()
    return bool(np.allclose(output.values, model.expected[0][:rows], rtol=model.tolerance, atol=model.tolerance))


async def test_each_item_has_its_own_fate(client: AsyncClient, models: dict[str, DemoModel]) -> None:
    tumour, iris = models["acme/tumour"], models["initech/iris"]
    results = await client.score_batch(
        [
            ScoreItem("acme", "tumour", tumour.rows[:3]),
            ScoreItem("acme", "none", tumour.rows[:1]),
            ScoreItem("initech", "iris", iris.rows[:2]),
            ScoreItem("acme", "tumour", tumour.rows[:1, :7]),
            ScoreItem("not a name!", "tumour", tumour.rows[:1]),
            ScoreItem("acme", "tumour", tumour.rows[:1], outputs=["margin"]),
            ScoreItem("acme", "tumour", tumour.rows[:1], request_id="last"),
        ],
        timeout_s=PATIENCE_S,
    )
    assert _right(results[0], tumour, 3)
    assert _right(results[2], iris, 2)
    assert _right(results[6], tumour, 1)
    assert isinstance(results[6], Scores)
    assert results[6].request_id == "last"
    failures = [result for result in results if isinstance(result, ScoreError)]
    assert [(failure.code.name, failure.reason) for failure in failures] == [
        ("NOT_FOUND", "MODEL_NOT_FOUND"),
        ("INVALID_ARGUMENT", "INVALID_FEATURES"),
        ("INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("INVALID_ARGUMENT", "INVALID_FEATURES"),
    ]
    for failure in failures:
        check_plain(failure.message)


# A router must see where an item goes; what comes after that only a scorer can read.
_GARBAGE = {
    "all of it": b"\xff\xff\xff\xff",
    "an id that is no text": _TUMOUR.SerializeToString() + b"\x4a\x02\xff\xfe",
    "half a double": _TUMOUR.SerializeToString() + b"\x3a\x03abc",
    "nothing": b"",
}


@pytest.mark.parametrize("what", _GARBAGE)
@pytest.mark.parametrize("at", ["router", "scorer"])
async def test_garbage_fails_alone(cluster: Cluster, models: dict[str, DemoModel], what: str, at: str) -> None:
    server = cluster.routers[0] if at == "router" else cluster.scorers[1]
    model = models["acme/tumour"]
    good = ScoreRequest(tenant="acme", model="tumour", row_count=1, dense_double=model.rows[0]).SerializeToString()
    batch = RawBatch(items=[good, _GARBAGE[what], good]).SerializeToString()
    async with cluster.channel(server) as channel:
        answer = await unary_of(channel, "ScoreBatch")(batch, timeout=PATIENCE_S)
        streamed = await _all_parts(stream_of(channel)(batch, timeout=PATIENCE_S))
    whole = ScoreBatchResponse.FromString(answer)
    for results in (list(whole.results), sorted(streamed.results, key=lambda result: result.index)):
        assert [(result.index, result.code) for result in results] == [(0, 0), (1, 3), (2, 0)], results
        assert results[1].reason == "INVALID_REQUEST"
        for place in (0, 2):
            got = results[place].response.outputs[0].class_probabilities.probabilities
            assert list(got) == model.expected[0][0].tolist()


async def _all_parts(stream: grpc.aio.UnaryStreamCall[bytes, bytes]) -> StreamScoreBatchResponse:
    return StreamScoreBatchResponse.FromString(b"".join([part async for part in stream]))


async def test_garbage_of_one_caller_harms_no_other(
    cluster: Cluster, client: AsyncClient, models: dict[str, DemoModel]
) -> None:
    """Many callers at once, so that the router sends their requests together."""
    model = models["acme/tumour"]
    async with cluster.channel() as channel:
        score = unary_of(channel, "Score")

        async def send_garbage() -> str:
            try:
                await score(_GARBAGE["an id that is no text"], timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        async def send_good(row: int) -> bool:
            scores = await client.score("acme", "tumour", model.rows[row : row + 1], timeout_s=PATIENCE_S)
            return scores.probabilities.tobytes() == model.expected[0][row : row + 1].tobytes()

        rounds = [(send_good(row), send_garbage()) for row in range(60)]
        results = await asyncio.gather(*(call for pair in rounds for call in pair))
    assert results[::2] == [True] * 60
    assert results[1::2] == ["INVALID_ARGUMENT"] * 60


async def test_a_large_batch_keeps_its_order(client: AsyncClient, models: dict[str, DemoModel]) -> None:
    tumour, iris = models["acme/tumour"], models["initech/iris"]
    chosen = [(tumour, index % 100) if index % 3 else (iris, index % 30) for index in range(1024)]
    items = [ScoreItem(*model.ref, model.rows[row : row + 1]) for model, row in chosen]
    results = await client.score_batch(items, timeout_s=PATIENCE_S)
    for (model, row), result in zip(chosen, results, strict=True):
        assert isinstance(result, Scores)
        (output,) = result.outputs.values()
        wanted = model.expected[0][row : row + 1]
        np.testing.assert_allclose(output.values, wanted, rtol=model.tolerance, atol=model.tolerance)


def _item(fresh: Fresh) -> ScoreRequest:
    return ScoreRequest(tenant=fresh.ref.tenant, model=fresh.ref.model, row_count=8, dense_double=fresh.rows.ravel())


@pytest.mark.parametrize("at", ["router", "scorer"])
async def test_a_warm_item_is_answered_before_a_cold_one(
    cluster: Cluster, shelf: Shelf, store: GatedStore, at: str
) -> None:
    server = cluster.routers[0] if at == "router" else cluster.scorers[0]
    cold, warm = await shelf.fresh(), await shelf.fresh()
    request = StreamScoreBatchRequest(items=[_item(cold), _item(warm), _item(cold)])
    async with cluster.channel(server) as channel:
        stream = channel.unary_stream(
            f"{SERVICE}/StreamScoreBatch",
            StreamScoreBatchRequest.SerializeToString,
            StreamScoreBatchResponse.FromString,
        )
        assert [part async for part in stream(StreamScoreBatchRequest(items=[_item(warm)]), timeout=PATIENCE_S)]
        results: list[ScoreResult] = []
        parts = aiter(stream(request, timeout=PATIENCE_S))
        with store.holding(cold.uri):
            while not results:
                results += (await anext(parts)).results
            assert [result.index for result in results] == [1]
        results += [result async for part in parts for result in part.results]
    assert [result.index for result in results][1:] in ([0, 2], [2, 0])
    assert [result.code for result in results] == [0, 0, 0]
    for result in results:
        wanted = warm if result.index == 1 else cold
        assert list(result.response.outputs[0].regression.values) == wanted.expected.tolist()
    assert store.asked.count(cold.uri) == 1


async def test_items_of_a_stream_have_deadlines_of_their_own(cluster: Cluster, shelf: Shelf, store: GatedStore) -> None:
    cold, warm = await shelf.fresh(), await shelf.fresh()
    request = StreamScoreBatchRequest(items=[_item(cold), _item(warm)], timeout_ms=[300, 0])
    with store.holding(cold.uri):
        async with cluster.channel() as channel:
            stream = stream_of(channel)
            parts = await _all_parts(stream(request.SerializeToString(), timeout=PATIENCE_S))
    assert {result.index: result.code for result in parts.results} == {0: 4, 1: 0}
    late = next(result for result in parts.results if result.code)
    assert late.reason == "DEADLINE_EXCEEDED"


async def test_a_batch_with_too_few_times_is_refused(cluster: Cluster) -> None:
    request = StreamScoreBatchRequest(items=[_TUMOUR, _TUMOUR], timeout_ms=[100])
    for server in (cluster.routers[0], cluster.scorers[0]):
        async with cluster.channel(server) as channel:
            stream = stream_of(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _all_parts(stream(request.SerializeToString(), timeout=PATIENCE_S))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "timeout_ms has 1 entries for 2 items"


async def test_a_cold_item_does_not_hold_the_others_of_a_router(
    cluster: Cluster, client: AsyncClient, shelf: Shelf, store: GatedStore
) -> None:
    """While many callers wait for cold models on each scorer, a warm model goes on answering."""
    warm = await shelf.fresh()
    await client.score(*warm.ref, warm.rows, timeout_s=PATIENCE_S)
    cold = [await shelf.fresh() for _ in range(8)]
    waiting = []
    try:
        with store.holding(cold[0].uri), store.holding(cold[1].uri), store.holding(cold[2].uri):
            for fresh in cold[:3] * 4:
                call = client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
                waiting.append(asyncio.create_task(call))
            await asyncio.to_thread(wait_until, lambda: {f.uri for f in cold[:3]} <= set(store.asked), "loads to begin")
            for _ in range(20):
                scores = await client.score(*warm.ref, warm.rows, timeout_s=PATIENCE_S)
                assert scores.values.tobytes() == warm.expected.tobytes()
            for fresh in cold[3:]:
                scores = await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
                assert scores.values.tobytes() == fresh.expected.tobytes()
            assert not any(task.done() for task in waiting)
    finally:
        answers = await asyncio.gather(*waiting)
    for fresh, scores in zip(cold[:3] * 4, answers, strict=True):
        assert scores.values.tobytes() == fresh.expected.tobytes()


async def test_the_largest_batch_request(cluster: Cluster, models: dict[str, DemoModel]) -> None:
    """Items that together are nearly as large as a message may be."""
    model = models["acme/tumour"]
    rows = np.tile(model.rows[:1], (100, 1))
    item = ScoreRequest(tenant="acme", model="tumour", row_count=100, dense_double=rows.ravel())
    count = 4 * 2**20 // (item.ByteSize() + 8)
    async with cluster.channel() as channel:
        call = channel.unary_unary(
            f"{SERVICE}/ScoreBatch", ScoreBatchRequest.SerializeToString, ScoreBatchResponse.FromString
        )
        response = await call(ScoreBatchRequest(items=[item] * count), timeout=PATIENCE_S)
    assert [result.index for result in response.results] == list(range(count))
    for result in response.results:
        assert list(result.response.outputs[0].class_probabilities.probabilities) == model.expected[0][0].tolist() * 100
