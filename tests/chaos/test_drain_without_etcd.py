"""A scorer that leaves while etcd is dead can tell nobody but by GOAWAY; that costs no request either."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client import AsyncClient
from ops.etcd_server import EtcdServer
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf
from tests.e2e.raw import PATIENCE_S


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def cluster(own_etcd: EtcdServer, store: GatedStore, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, own_etcd, store.url, name="alone", front="http2")
    try:
        yield cluster.start(scorers=3)
    finally:
        cluster.stop()


@pytest.fixture
async def load(cluster: Cluster, store: GatedStore) -> AsyncIterator[Load]:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    models = [await shelf.fresh() for _ in range(6)]
    for scorer in cluster.scorers:  # so that each knows every name, which it couldn't look up later
        async with AsyncClient([scorer.address]) as direct:
            for fresh in models:
                await direct.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    async with cluster.client() as client, Load(cluster, models, client) as load:
        yield load
    assert load.failures == []


async def test_drain_a_scorer_whose_etcd_is_dead(cluster: Cluster, load: Load, own_etcd: EtcdServer) -> None:
    victim = max(cluster.scorers, key=lambda scorer: load.served[scorer.id])
    victim_id = victim.id
    own_etcd.kill()
    victim.terminate()
    await load.until(lambda: victim.process.exit_code is not None, "it to end")
    assert victim.process.exit_code == 0, victim.log()
    assert (await load.more(300))[victim_id] == 0
