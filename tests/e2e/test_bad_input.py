"""Whatever a caller gets wrong, and whatever is wrong with a model: a clear refusal, and the next request works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from client import AsyncClient, ScoreError
from client.scores import Residency, Scores
from ops.demo_models import DemoModel
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreRequest, StringColumn
from tests.e2e.cluster import Cluster, Server, wait_until
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf, wait_answered
from tests.e2e.raw import PATIENCE_S, check_plain, refused, unary_of

_WIDTH = 30


def _request(**changes: object) -> ScoreRequest:
    fields = {"tenant": "acme", "model": "tumour", "row_count": 1, "dense_double": [0.5] * _WIDTH, **changes}
    return ScoreRequest(**fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def good_request_works(client: AsyncClient, models: dict[str, DemoModel]) -> AsyncIterator[None]:
    """Before and after each test a good request is answered rightly; so the model is warm, too."""
    model = models["acme/tumour"]
    for last in (False, True):
        scores = await client.score("acme", "tumour", model.rows[:2], timeout_s=PATIENCE_S)
        assert scores.probabilities.tobytes() == model.expected[0][:2].tobytes()
        if not last:
            yield


_REFUSALS: dict[str, tuple[ScoreRequest, str, str, str]] = {
    "unknown model": (_request(model="none"), "NOT_FOUND", "MODEL_NOT_FOUND", "has no model 'none'"),
    "unknown tenant": (_request(tenant="nobody"), "NOT_FOUND", "MODEL_NOT_FOUND", "tenant 'nobody' has no model"),
    "model of another tenant": (_request(tenant="globex"), "NOT_FOUND", "MODEL_NOT_FOUND", "tenant 'globex'"),
    "unknown alias": (_request(alias="gone"), "NOT_FOUND", "MODEL_NOT_FOUND", "no alias 'gone'"),
    "unknown version": (_request(version="77"), "NOT_FOUND", "MODEL_NOT_FOUND", "no version '77'"),
    "bad name": (_request(model="a/b"), "INVALID_ARGUMENT", "INVALID_REQUEST", "model 'a/b' is not a valid name"),
    "long name": (_request(model="m" * 129), "INVALID_ARGUMENT", "INVALID_REQUEST", "is not a valid name"),
    "no tenant": (_request(tenant=""), "INVALID_ARGUMENT", "INVALID_REQUEST", "tenant is missing"),
    "no model": (_request(model=""), "INVALID_ARGUMENT", "INVALID_REQUEST", "model is missing"),
    "too few features": (
        _request(dense_double=[0.5] * 29),
        "INVALID_ARGUMENT",
        "INVALID_FEATURES",
        "29 features a row; the model has 30 features",
    ),
    "too many rows": (_request(row_count=7), "INVALID_ARGUMENT", "INVALID_FEATURES", "not 7 whole rows"),
    "absurd row count": (_request(row_count=2**32 - 1), "INVALID_ARGUMENT", "INVALID_FEATURES", "whole rows"),
    "no rows": (_request(row_count=0), "INVALID_ARGUMENT", "INVALID_FEATURES", "row_count is missing"),
    "no values": (_request(dense_double=[]), "INVALID_ARGUMENT", "INVALID_FEATURES", "0 features a row"),
    "both matrices": (_request(dense_float=[0.5] * _WIDTH), "INVALID_ARGUMENT", "INVALID_FEATURES", "both set"),
    "text for a model without": (
        _request(string_columns=[StringColumn(name="city", values=["Ulm"])]),
        "INVALID_ARGUMENT",
        "INVALID_FEATURES",
        "string_columns are city; the model has none",
    ),
    "unknown output": (
        _request(output_names=["margin"]),
        "INVALID_ARGUMENT",
        "INVALID_FEATURES",
        "output_names has 'margin'",
    ),
    "long request id": (
        _request(request_id="i" * 129),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
        "request_id is over 128",
    ),
}


@pytest.mark.parametrize("name", _REFUSALS)
async def test_a_wrong_request_is_refused(cluster: Cluster, name: str) -> None:
    request, code, reason, words = _REFUSALS[name]
    seen = await refused(cluster, request.SerializeToString())
    assert (seen.code, seen.reason) == (code, reason), seen.message
    assert words in seen.message


def _with_bad_text(request: ScoreRequest) -> bytes:
    """The request with an id that is no UTF-8: field 9, two bytes."""
    return request.SerializeToString() + b"\x4a\x02\xff\xfe"


_UNREADABLE = {
    "garbage": b"\xff\xff\xff\xff",
    "cut off": _request().SerializeToString()[:-3],
    "bad text in the tenant": b"\x0a\x02\xff\xfe\x12\x01m",
    "bad text elsewhere": _with_bad_text(_request()),
    "half a double": _request().SerializeToString() + b"\x3a\x03abc",
}


@pytest.mark.parametrize("name", _UNREADABLE)
async def test_bytes_that_are_no_request(cluster: Cluster, name: str) -> None:
    seen = await refused(cluster, _UNREADABLE[name])
    assert (seen.code, seen.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST"), seen.message


async def test_an_empty_message(cluster: Cluster) -> None:
    seen = await refused(cluster, b"")
    assert seen == ("INVALID_ARGUMENT", "INVALID_REQUEST", "tenant is missing")


@pytest.mark.parametrize("method", ["ScoreBatch", "StreamScoreBatch"])
@pytest.mark.parametrize("at", ["router", "scorer"])
async def test_a_batch_that_is_none(cluster: Cluster, method: str, at: str) -> None:
    server = cluster.routers[0] if at == "router" else cluster.scorers[0]
    seen = await refused(cluster, b"\xff\xff\xff", method, server=server)
    assert (seen.code, seen.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    for count in (0, 1025):
        batch = ScoreBatchRequest(items=[_request(dense_double=[])] * count).SerializeToString()
        seen = await refused(cluster, batch, method, server=server)
        assert seen == ("INVALID_ARGUMENT", "INVALID_REQUEST", f"a batch has 1 to 1024 items, not {count}")


async def test_a_message_over_the_limit(cluster: Cluster) -> None:
    request = _request(row_count=20_000, dense_double=[0.5] * (20_000 * _WIDTH))
    seen = await refused(cluster, request.SerializeToString())
    assert (seen.code, seen.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert "over the limit of 4194304 bytes" in seen.message


async def test_an_unknown_method(cluster: Cluster) -> None:
    assert (await refused(cluster, b"", "Guess")).code == "UNIMPLEMENTED"


async def test_a_deadline_too_short_for_a_cold_model_warms_it(
    client: AsyncClient, shelf: Shelf, store: GatedStore
) -> None:
    fresh = await shelf.fresh()
    with store.holding(fresh.uri):
        with pytest.raises(ScoreError) as caught:
            await client.score(*fresh.ref, fresh.rows, timeout_s=0.5)
        assert caught.value.code.name == "DEADLINE_EXCEEDED"
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        assert store.asked.count(fresh.uri) == 1
    scores = await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    assert scores.values.tobytes() == fresh.expected.tobytes()
    assert store.asked.count(fresh.uri) == 1, "the load that had begun went on"
    again = await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    assert again.residency is Residency.HIT


async def test_a_deadline_that_is_over(cluster: Cluster) -> None:
    seen = await refused(cluster, _request().SerializeToString(), timeout_s=0.0)
    assert seen.code == "DEADLINE_EXCEEDED"


async def test_a_damaged_artifact(client: AsyncClient, cluster: Cluster, shelf: Shelf, store: GatedStore) -> None:
    fresh = await shelf.fresh()
    payload = _of(fresh.ref.tenant, fresh.ref.model, fresh.rows)
    with store.answering(fresh.uri, b"tree\nversion=v4\n"):
        seen = await refused(cluster, payload)
        assert (seen.code, seen.reason) == ("FAILED_PRECONDITION", "DIGEST_MISMATCH"), seen.message
        assert "not what was published" in seen.message
    scores = await _score_when_told(client, fresh, "DIGEST_MISMATCH")
    assert scores.values.tobytes() == fresh.expected.tobytes()


async def test_a_missing_artifact(client: AsyncClient, cluster: Cluster, shelf: Shelf, store: GatedStore) -> None:
    fresh = await shelf.fresh()
    with store.answering(fresh.uri, None):
        seen = await refused(cluster, _of(fresh.ref.tenant, fresh.ref.model, fresh.rows))
        assert (seen.code, seen.reason) == ("FAILED_PRECONDITION", "MODEL_UNUSABLE"), seen.message
        assert "missing from the store" in seen.message
    assert (await _score_when_told(client, fresh, "MODEL_UNUSABLE")).residency is Residency.COLD


async def test_a_store_that_does_not_answer(
    client: AsyncClient, cluster: Cluster, shelf: Shelf, store: GatedStore, models: dict[str, DemoModel]
) -> None:
    fresh = await shelf.fresh()
    with store.unreachable():
        seen = await refused(cluster, _of(fresh.ref.tenant, fresh.ref.model, fresh.rows))
        assert (seen.code, seen.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE"), seen.message
        warm = await client.score("acme", "tumour", np.zeros((1, _WIDTH)), timeout_s=PATIENCE_S)
        assert warm.residency is Residency.HIT
    scores = await _score_when_told(client, fresh, "STORE_UNAVAILABLE")
    assert scores.values.tobytes() == fresh.expected.tobytes()
    await wait_answered(cluster, models)


async def _score_when_told(client: AsyncClient, fresh: Fresh, reason: str) -> Scores:
    """The load that failed is remembered: the answer is the same until the time that it names, then it's tried
    again.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
            except ScoreError as error:
                if error.reason != reason or not 0 < error.retry_after_ms <= 5_000:
                    raise
                await asyncio.sleep(error.retry_after_ms / 1000)


async def test_a_model_larger_than_the_memory(cluster: Cluster, shelf: Shelf) -> None:
    fresh = await shelf.fresh(megabytes_reserved=10_000)
    seen = await refused(cluster, _of(fresh.ref.tenant, fresh.ref.model, fresh.rows))
    assert (seen.code, seen.reason) == ("FAILED_PRECONDITION", "MODEL_UNUSABLE"), seen.message
    assert "bytes of memory" in seen.message


async def test_a_client_that_leaves_lets_the_load_go_on(cluster: Cluster, shelf: Shelf, store: GatedStore) -> None:
    fresh = await shelf.fresh()
    with store.holding(fresh.uri):
        async with cluster.channel() as channel:
            score = unary_of(channel, "Score")
            call = score(_of(fresh.ref.tenant, fresh.ref.model, fresh.rows), timeout=PATIENCE_S)
            await asyncio.to_thread(wait_until, lambda: fresh.uri in store.asked, "the load to begin")
            assert call.cancel()
            assert (await call.code()).name == "CANCELLED"
    # The next request might well go to another scorer.
    scorer = await asyncio.to_thread(_has_fetched, cluster, fresh)
    async with cluster.client(scorer) as direct:
        scores = await direct.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    assert scores.values.tobytes() == fresh.expected.tobytes()
    assert store.asked.count(fresh.uri) == 1


def _has_fetched(cluster: Cluster, fresh: Fresh) -> Server:
    """The first scorer that has the model on its disk."""
    digest = fresh.uri.rpartition("/")[2]
    found: list[Server] = []
    by_disk = {cluster.directory / scorer.name: scorer for scorer in cluster.scorers}

    def look() -> bool:
        found.extend(scorer for disk, scorer in by_disk.items() if any(disk.rglob(digest)))
        return bool(found)

    wait_until(look, "a scorer to have fetched the model")
    return found[0]


def _of(tenant: str, model: str, rows: np.ndarray) -> bytes:
    request = ScoreRequest(tenant=tenant, model=model, row_count=len(rows), dense_double=rows.ravel())
    return request.SerializeToString()


def test_the_check_for_plain_text_sees_python() -> None:
    for text in ("list index out of range: IndexError", "'NoneType' has no attribute", "File x.py line 3"):
        with pytest.raises(AssertionError):
            check_plain(text)
