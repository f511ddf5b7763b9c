"""etcd loses all its data while the cluster scores: what is resident goes on, and a rebuild brings back the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.scores import Residency
from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys
from registry.rebuild import rebuild
from registry.store_urls import open_store
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf
from tests.e2e.raw import PATIENCE_S
from tests.integration.publishing import open_ledger


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def cluster(own_etcd: EtcdServer, store: GatedStore, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, own_etcd, store.url, name="wiped", front="http2")
    yield cluster.start(scorers=2)
    cluster.stop()


async def test_a_wiped_etcd_fails_no_request(cluster: Cluster, own_etcd: EtcdServer, store: GatedStore) -> None:
    shelf = Shelf(store.directory, own_etcd, cluster.name)
    resident = [await shelf.fresh() for _ in range(8)]
    unasked = await shelf.fresh()
    async with cluster.client() as client:
        for fresh in resident:
            await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
        async with Load(cluster, resident, client) as load:
            own_etcd.kill()
            await load.more(300)
            own_etcd.wipe()
            own_etcd.spawn()
            await asyncio.to_thread(own_etcd.wait_healthy)
            await load.more(300)
            await asyncio.to_thread(cluster.wait_members, 2)
            etcd = Etcd([own_etcd.endpoint])
            try:
                ledger = open_ledger(open_store(f"file://{store.directory}"), etcd, Keys(cluster.name))
                models = len((await etcd.list_prefix(ledger.keys.models_prefix)).kvs)
                rebuilt = await rebuild(ledger)
                assert models == 0
                assert rebuilt.written == rebuilt.models >= 9
                assert len((await etcd.list_prefix(ledger.keys.models_prefix)).kvs) == rebuilt.models
            finally:
                await etcd.aclose()
            await load.more(300)
            new = await shelf.fresh()
            for fresh in (unasked, new):
                scores = await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
                assert scores.values.tobytes() == fresh.expected.tobytes()
                assert scores.residency is Residency.COLD
            await load.more(100)
    assert load.failures == []
