"""Killing, stopping and restarting servers under load costs no request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from ops.etcd_server import EtcdServer
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf


@pytest.fixture(scope="module", params=["http2", "native"])
def cluster(
    request: pytest.FixtureRequest,
    etcd_server: EtcdServer,
    store: GatedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("drain")
    cluster = Cluster(directory, etcd_server, store.url, name=f"drain-{request.param}", front=request.param)
    try:
        yield cluster.start(scorers=3, routers=2)
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Each test leaves the cluster as it found it: what it ended is started again."""
    yield
    for server in (*cluster.scorers, *cluster.routers):
        if server.process.exit_code is not None:
            server.restart()
    cluster.wait_ready()


@pytest.fixture
async def load(cluster: Cluster, store: GatedStore) -> AsyncIterator[Load]:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    models: list[Fresh] = [await shelf.fresh() for _ in range(6)]
    async with cluster.client() as client, Load(cluster, models, client) as load:
        yield load
    assert load.failures == []


def _busiest(cluster: Cluster, load: Load) -> int:
    """The place of the scorer that answers most."""
    ids = [scorer.id for scorer in cluster.scorers]
    return max(range(len(ids)), key=lambda place: load.served[ids[place]])


async def test_kill_a_scorer(cluster: Cluster, load: Load) -> None:
    victim = cluster.scorers[_busiest(cluster, load)]
    victim_id = victim.id
    victim.process.kill()
    after = await load.more(400)
    assert sum(after.values()) - after[victim_id] > 350, "the others took over"
    await load.until(lambda: all(router.members == 2 for router in cluster.routers), "its lease to end")
    assert (await load.more(100))[victim_id] == 0


async def test_drain_a_scorer(cluster: Cluster, load: Load) -> None:
    victim = cluster.scorers[_busiest(cluster, load)]
    victim_id = victim.id
    victim.terminate()
    await load.until(lambda: victim.process.exit_code is not None, "it to end")
    assert victim.process.exit_code == 0, victim.log()
    await load.until(lambda: all(router.members == 2 for router in cluster.routers), "the routers to know")
    assert (await load.more(200))[victim_id] == 0


async def test_restart_every_scorer_in_turn(cluster: Cluster, load: Load) -> None:
    for scorer in cluster.scorers:
        scorer.terminate()
        await load.until(lambda: scorer.process.exit_code is not None, "it to end")  # noqa: B023
        assert scorer.process.exit_code == 0
        scorer.restart()
        await asyncio.to_thread(scorer.wait_health)
        await asyncio.to_thread(cluster.wait_members, 3)
        await load.more(100)
    assert len(await load.more(300)) >= 2, "the restarted ones serve"


async def test_drain_one_of_two_routers(cluster: Cluster, load: Load) -> None:
    router = cluster.routers[0]
    router.terminate()
    await load.until(lambda: router.process.exit_code is not None, "it to end")
    assert router.process.exit_code == 0, router.log()
    await load.more(200)


async def test_kill_one_of_two_routers(cluster: Cluster, load: Load) -> None:
    cluster.routers[1].process.kill()
    await load.more(300)


def test_a_drained_server_says_so_in_its_log(cluster: Cluster) -> None:
    scorer = cluster.scorers[0]
    scorer.terminate()
    assert scorer.wait_end() == 0
    log = scorer.log()
    assert "draining" in log
    assert "Traceback" not in log, log
