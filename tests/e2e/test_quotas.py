"""Quotas of tenants, from their settings in etcd to what a caller is told, and back without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import TenantRecord
from scoremesh.scoring.v1.scoring_pb2 import (
    ScoreBatchRequest,
    ScoreBatchResponse,
    ScoreRequest,
    ScoreResponse,
)
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf

_SERVICE = "/scoremesh.scoring.v1.ScoringService/"


@pytest.fixture(scope="module", params=["http2", "native", "aio"])
def cluster(
    request: pytest.FixtureRequest,
    etcd_server: EtcdServer,
    store: GatedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("quotas")
    cluster = Cluster(directory, etcd_server, store.url, name=f"quotas-{request.param}", front=request.param)
    try:
        yield cluster.start(scorers=1, routers=2)
    finally:
        cluster.stop()


@pytest.fixture
async def fresh(cluster: Cluster, store: GatedStore) -> Fresh:
    return await Shelf(store.directory, cluster.etcd, cluster.name).fresh()


@pytest.fixture
async def channel(cluster: Cluster) -> AsyncIterator[grpc.aio.Channel]:
    async with cluster.channel() as channel:
        yield channel


def _request(fresh: Fresh) -> ScoreRequest:
    rows = fresh.rows
    return ScoreRequest(tenant=fresh.ref.tenant, model=fresh.ref.model, row_count=len(rows), dense_double=rows.ravel())


async def _set(cluster: Cluster, fresh: Fresh, **settings: float) -> None:
    etcd, keys = Etcd([cluster.etcd.endpoint]), Keys(cluster.name)
    try:
        record = TenantRecord(tenant=fresh.ref.tenant, **settings)  # type: ignore[arg-type]
        await etcd.put(keys.tenant(record.tenant), encode(record))
    finally:
        await etcd.aclose()


async def _score(channel: grpc.aio.Channel, fresh: Fresh) -> grpc.aio.AioRpcError | None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, ScoreResponse] = channel.unary_unary(
        _SERVICE + "Score", response_deserializer=ScoreResponse.FromString
    )
    try:
        await call(_request(fresh).SerializeToString(), timeout=20)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def _until_refused(channel: grpc.aio.Channel, fresh: Fresh) -> grpc.aio.AioRpcError:
    async with asyncio.timeout(30):
        while True:
            refusals = await asyncio.gather(*(_score(channel, fresh) for _ in range(8)))
            found = [refusal for refusal in refusals if refusal is not None]
            if found:
                return found[0]


async def test_a_rate_is_refused_with_a_hint_and_holds_until_it_is_lifted(
    cluster: Cluster, channel: grpc.aio.Channel, fresh: Fresh
) -> None:
    assert await _score(channel, fresh) is None
    await _set(cluster, fresh, requests_per_s=2.0)
    error = await _until_refused(channel, fresh)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert info.reason == "RATE_EXCEEDED"
    assert retry.retry_delay.ToMilliseconds() > 0
    if not cluster.name.endswith("native"):  # which keeps this trailer for itself
        assert int(trailers["grpc-retry-pushback-ms"]) == retry.retry_delay.ToMilliseconds()
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, ScoreBatchResponse] = channel.unary_unary(
        _SERVICE + "ScoreBatch", response_deserializer=ScoreBatchResponse.FromString
    )
    batch = ScoreBatchRequest(items=[_request(fresh)] * 9)
    reasons = {result.reason for result in (await call(batch.SerializeToString(), timeout=20)).results}
    assert "RATE_EXCEEDED" in reasons, "each item of a batch counts"
    await _set(cluster, fresh)
    async with asyncio.timeout(30):
        while any(await asyncio.gather(*(_score(channel, fresh) for _ in range(20)))):
            await asyncio.sleep(0.05)
