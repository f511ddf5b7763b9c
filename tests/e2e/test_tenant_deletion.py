"""A tenant is deleted while the cluster serves it: nothing of it is left in the store, in etcd or on a scorer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client import ScoreError
from client.scores import Residency
from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.deletion import delete_tenant, delete_version
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.purge import purge_by
from registry.rollout.scorers import ScorerCalls
from registry.store_urls import open_store
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf
from tests.e2e.raw import PATIENCE_S
from tests.integration.publishing import open_ledger

TENANT = "hauptbuchhalter"


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def cluster(own_etcd: EtcdServer, store: GatedStore, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, own_etcd, store.url, name="deleting", front="http2")
    yield cluster.start(scorers=2)
    cluster.stop()


@pytest.fixture
async def ledger(own_etcd: EtcdServer, store: GatedStore) -> AsyncIterator[Ledger]:
    etcd = Etcd([own_etcd.endpoint])
    yield open_ledger(open_store(f"file://{store.directory}"), etcd, Keys("deleting"))
    await etcd.aclose()


@pytest.fixture
async def calls(ledger: Ledger) -> AsyncIterator[ScorerCalls]:
    calls = ScorerCalls(ledger.etcd, ledger.keys)
    yield calls
    await calls.aclose()


def mentions(directories: list[Path], words: list[str]) -> list[str]:
    """Files and folders with one of the words in their name or their bytes."""
    found = []
    for directory in directories:
        for path in directory.rglob("*"):
            told = bytes(path.relative_to(directory)) + (path.read_bytes() if path.is_file() else b"")
            found += [str(path) for word in words if word.encode() in told]
    return found


async def test_nothing_is_left_and_the_others_go_on(
    cluster: Cluster, ledger: Ledger, calls: ScorerCalls, store: GatedStore
) -> None:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    theirs = [await shelf.fresh(tenant=TENANT) for _ in range(5)]
    other = await shelf.fresh(tenant="acme")
    places = [store.directory, *(cluster.directory / scorer.name for scorer in cluster.scorers)]
    digests = [fresh.uri.rpartition("/")[2] for fresh in theirs]
    async with cluster.client() as client:
        for fresh in (*theirs, other):
            await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
        assert len(mentions(places[1:], digests)) == 5, "each was kept on a disk"
        removed = await delete_tenant(ledger, TENANT, purge=purge_by(calls))
        assert (removed.models, removed.versions, removed.resident_models) == (5, 5, 5)
        assert removed.disk_files >= 5
        assert removed.unreached_members == ()
        assert mentions(places, [TENANT, *digests]) == []
        listing = await ledger.etcd.list_prefix(b"/")
        assert [kv.key for kv in listing.kvs if TENANT.encode() in kv.key + kv.value] == []
        for fresh in theirs:
            with pytest.raises(ScoreError, match="NOT_FOUND"):
                await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
        assert (await client.score(*other.ref, other.rows, timeout_s=PATIENCE_S)).residency is Residency.HIT
    assert mentions(places, [TENANT, *digests]) == []


async def test_a_deleted_version_leaves_scorers_and_the_rest_stays(
    cluster: Cluster, ledger: Ledger, calls: ScorerCalls, store: GatedStore
) -> None:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    gone, kept = [await shelf.fresh(tenant="acme") for _ in range(2)]
    async with cluster.client() as client:
        for fresh in (gone, kept):
            await client.score(*fresh.ref, fresh.rows, version=fresh.version, timeout_s=PATIENCE_S)
        await AliasMoves(ledger).remove(gone.ref, "live")
        removed = await delete_version(ledger, gone.ref, gone.version, purge=purge_by(calls))
        assert removed.resident_models == 1
        assert removed.disk_files >= 1
        with pytest.raises(ScoreError, match="NOT_FOUND"):
            await client.score(*gone.ref, gone.rows, timeout_s=PATIENCE_S)
        assert (await client.score(*kept.ref, kept.rows, timeout_s=PATIENCE_S)).residency is Residency.HIT


async def test_a_scorer_that_does_not_answer_is_named(
    cluster: Cluster, ledger: Ledger, calls: ScorerCalls, store: GatedStore
) -> None:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    await shelf.fresh(tenant=TENANT)
    dead_id = cluster.scorers[0].id
    cluster.scorers[0].process.kill()
    removed = await delete_tenant(ledger, TENANT, purge=purge_by(calls))
    assert removed.unreached_members == (dead_id,)
    assert mentions([store.directory], [TENANT]) == []
    await asyncio.to_thread(cluster.wait_members, 1)
