"""A scorer that is stopped keeps its connections and says nothing; its requests are answered by others in time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from ops.etcd_server import EtcdServer
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf


@pytest.fixture(scope="module", params=["http2", "native"])
def cluster(
    request: pytest.FixtureRequest,
    etcd_server: EtcdServer,
    store: GatedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("stalled")
    cluster = Cluster(directory, etcd_server, store.url, name=f"stalled-{request.param}", front=request.param)
    try:
        for _ in range(3):
            cluster.add_scorer(lease_s=20.0)  # the routers must find out by themselves
        cluster.add_router()
        yield cluster.wait_ready()
    finally:
        for scorer in cluster.scorers:
            scorer.process.send(signal.SIGCONT)
        cluster.stop()


@pytest.fixture
async def load(cluster: Cluster, store: GatedStore) -> AsyncIterator[Load]:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    models = [await shelf.fresh() for _ in range(6)]
    async with cluster.client() as client, Load(cluster, models, client) as load:
        yield load
    assert load.failures == []


async def test_stop_a_scorer_and_let_it_go_on(cluster: Cluster, load: Load) -> None:
    victim = max(cluster.scorers, key=lambda scorer: load.served[scorer.id])
    victim.process.send(signal.SIGSTOP)
    router = cluster.routers[0]
    await load.until(lambda: f"scorer {victim.id} is left out for a while" in router.log(), "the router to see it")
    assert (await load.more(300))[victim.id] == 0
    assert f"scorer {victim.id} says nothing" in router.log()
    victim.process.send(signal.SIGCONT)
    async with asyncio.timeout(60):
        while not (await load.more(20))[victim.id]:
            pass
