"""Several routers on one port: what dies is started again, and callers that retry see nothing of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from ops.etcd_server import EtcdServer
from ops.member_list import list_members
from registry.etcd import Etcd
from registry.keys import Keys
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster, Server, wait_until
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Shelf

_WORKERS = 3


@pytest.fixture(scope="module", params=["http2", "native", "aio"])
def cluster(
    request: pytest.FixtureRequest,
    etcd_server: EtcdServer,
    store: GatedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("workers")
    cluster = Cluster(directory, etcd_server, store.url, name=f"workers-{request.param}", front=request.param)
    try:
        cluster.add_scorer()
        cluster.add_scorer()
        cluster.add_router("--workers", str(_WORKERS), "--lease-s", "3")
        yield cluster.wait_ready()
    finally:
        cluster.stop()


def _workers(router: Server) -> list[psutil.Process]:
    return psutil.Process(router.process.pid).children()


async def _routers(cluster: Cluster) -> list[str]:
    etcd = Etcd([cluster.etcd.endpoint])
    try:
        return sorted(await list_members(etcd, Keys(cluster.name).of_routers()))
    finally:
        await etcd.aclose()


@pytest.fixture
async def load(cluster: Cluster, store: GatedStore) -> AsyncIterator[Load]:
    shelf = Shelf(store.directory, cluster.etcd, cluster.name)
    models = [await shelf.fresh() for _ in range(4)]
    async with cluster.client() as client, Load(cluster, models, client) as load:
        yield load
    assert load.failures == []


async def _until_routers(cluster: Cluster, count: int) -> list[str]:
    async with asyncio.timeout(60):
        while len(found := await _routers(cluster)) != count:
            await asyncio.sleep(0.05)
    return found


async def test_each_worker_is_a_router_of_its_own(cluster: Cluster, load: Load) -> None:
    assert len(_workers(cluster.routers[0])) == _WORKERS
    names = await _until_routers(cluster, _WORKERS)
    assert [name.rpartition("-")[2] for name in names] == [str(worker) for worker in range(_WORKERS)]
    await load.more(100)


async def test_killed_workers_are_started_again(cluster: Cluster, load: Load) -> None:
    router = cluster.routers[0]
    before = {worker.pid for worker in _workers(router)}
    for pid in before:  # one after the other, so that the one with the connections is among them
        started = router.log().count("router listening on")
        os.kill(pid, signal.SIGKILL)
        await load.until(lambda: router.log().count("router listening on") > started, "another one")  # noqa: B023
        await load.more(200)
    assert router.log().count("starting it again") >= _WORKERS
    await _until_routers(cluster, _WORKERS)


async def test_workers_drain_together(cluster: Cluster) -> None:
    router = cluster.routers[0]
    workers = _workers(router)
    router.terminate()
    assert await asyncio.to_thread(router.wait_end) == 0, router.log()
    _gone, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert await _until_routers(cluster, 0) == [], "they have withdrawn, and not just run out"
    assert "Traceback" not in router.log()
    router.restart()
    router.wait_health()
    wait_until(lambda: router.members == 2, "the router to know the scorers")


def test_a_supervisor_whose_port_is_taken_or_whose_workers_cannot_start(cluster: Cluster) -> None:
    taken = cluster.add_router("--workers", "2", "--listen", cluster.routers[0].address)
    assert taken.wait_end() == 1
    assert "can't listen on" in taken.log()
    broken = cluster.add_router("--workers", "2", "--tls-cert", "/nowhere", "--tls-key", "/nowhere")
    assert broken.wait_end() == 1
    cluster.routers = cluster.routers[:1]
