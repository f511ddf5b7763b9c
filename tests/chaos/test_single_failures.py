"""Any single failure under 500 requests a second costs no request, whatever fails, and each answer is right.

Three etcd nodes, three scorers with two replicas of each model, two routers alone and a router of two workers; requests
go through our client with all three addresses.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from client import AsyncClient
from ops.etcd_server import EtcdServer, find_binary, start_cluster
from ops.local_cluster import LocalCluster
from ops.server_process import FrontProcess, ScorerProcess
from tests.chaos.open_load import RATE, OpenLoad
from tests.e2e.models import Fresh, Shelf

pytestmark = pytest.mark.asyncio(loop_scope="module")
_ONE_SECOND = int(RATE)
# etcd before 3.5.3 may forget a write when it's killed, and our package is older; 3.4 doesn't.
_ETCD34 = Path(os.environ.get("SCOREMESH_ETCD34", "/usr/bin/etcd"))
_CAN_KILL = _ETCD34.exists()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EtcdServer]]:
    binary = _ETCD34 if _CAN_KILL else find_binary()
    args = ("--heartbeat-interval", "100", "--election-timeout", "1000")
    cluster = start_cluster(tmp_path_factory.mktemp("nodes"), 3, binary=binary, extra_args=args)
    yield cluster
    for node in cluster:
        node.terminate(grace_s=1.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(nodes: list[EtcdServer], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    endpoints = [node.endpoint for node in nodes]
    # Leases are so long that routers must find out by themselves what is stopped.
    scorer_args = ["--lease-s", "20", "--drain-s", "4"]
    directory = tmp_path_factory.mktemp("single")
    local = LocalCluster(directory, etcd=endpoints, routers=2, scorer_args=scorer_args, router_args=["--drain-s", "4"])
    async with local:
        arguments = ["--etcd", ",".join(endpoints), "--drain-s", "4", "--workers", "2"]
        several = FrontProcess("router-workers", "router", arguments, directory / "logs" / "router-workers.log")
        local.routers.append(several)
        await several.start()
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models(cluster: LocalCluster, nodes: list[EtcdServer]) -> list[Fresh]:
    shelf = Shelf(cluster.directory / "store", nodes[0], cluster.cluster)
    return [await shelf.fresh(tenant=f"tenant{number % 3}") for number in range(12)]


@pytest_asyncio.fixture(loop_scope="module")
async def load(cluster: LocalCluster, models: list[Fresh]) -> AsyncIterator[OpenLoad]:
    async with AsyncClient(cluster.router_addresses) as client:
        async with OpenLoad(models, client) as load:
            yield load
        assert load.failures == {}, load.told
        assert load.served.total() == load.sent


def _busiest(cluster: LocalCluster, load: OpenLoad) -> ScorerProcess:
    name = load.busiest([scorer.id for scorer in cluster.scorers])
    return next(scorer for scorer in cluster.scorers if scorer.id == name)


def _workers(router: FrontProcess) -> list[psutil.Process]:
    return psutil.Process(router.pid).children()


def _starts(router: FrontProcess) -> int:
    """How often a worker of it began to listen."""
    return router.log_since_start().count(b"router listening on")


# --- scorers ---


async def test_a_killed_scorer(cluster: LocalCluster, load: OpenLoad) -> None:
    victim = _busiest(cluster, load)
    victim.kill()
    await load.more(2 * _ONE_SECOND)
    await victim.start()
    await load.more(_ONE_SECOND)


async def test_a_stopped_scorer(cluster: LocalCluster, load: OpenLoad) -> None:
    victim = _busiest(cluster, load)
    victim.stop()
    try:
        await load.more(_ONE_SECOND)
        await load.settle()
        assert (await load.more(_ONE_SECOND))[victim.id] == 0, "it was left out, and not asked again and again"
    finally:
        victim.cont()
    await load.more(_ONE_SECOND)


async def test_a_drained_scorer(cluster: LocalCluster, load: OpenLoad) -> None:
    victim = _busiest(cluster, load)
    await victim.terminate()
    assert victim.exit_code == 0
    assert (await load.more(_ONE_SECOND))[victim.id] == 0
    await victim.start()
    await load.more(_ONE_SECOND)


# --- routers ---


async def test_a_killed_router(cluster: LocalCluster, load: OpenLoad) -> None:
    router = cluster.routers[0]
    router.kill()
    await load.more(2 * _ONE_SECOND)
    await router.start()
    await load.more(_ONE_SECOND)


async def test_a_stopped_router(cluster: LocalCluster, load: OpenLoad) -> None:
    router = cluster.routers[0]
    router.stop()
    try:
        await load.more(_ONE_SECOND)
        await load.settle()
    finally:
        router.cont()
    await load.more(_ONE_SECOND)


async def test_a_drained_router(cluster: LocalCluster, load: OpenLoad) -> None:
    router = cluster.routers[0]
    await router.terminate()
    assert router.exit_code == 0
    await load.more(_ONE_SECOND)
    await router.start()
    await load.more(_ONE_SECOND)


async def test_killed_workers_of_a_router(cluster: LocalCluster, load: OpenLoad) -> None:
    """One after the other, so that the one with the connections is among them."""
    router = cluster.routers[-1]
    for worker in _workers(router):
        started = _starts(router)
        worker.kill()
        await load.until(lambda: _starts(router) > started, "another worker")  # noqa: B023
        await load.more(_ONE_SECOND)


async def test_stopped_workers_of_a_router(cluster: LocalCluster, load: OpenLoad) -> None:
    for worker in _workers(cluster.routers[-1]):
        worker.suspend()
        try:
            await load.more(_ONE_SECOND // 2)
            await load.settle()
        finally:
            worker.resume()
        await load.more(_ONE_SECOND)


# --- etcd ---


@pytest.mark.parametrize("place", range(3))
async def test_a_killed_etcd_node(nodes: list[EtcdServer], load: OpenLoad, place: int) -> None:
    """One of the three leads."""
    node = nodes[place]
    node.process.send(signal.SIGKILL if _CAN_KILL else signal.SIGTERM)
    await load.more(_ONE_SECOND)
    node.process.kill()
    node.spawn()
    await asyncio.to_thread(node.wait_healthy)
    await load.more(_ONE_SECOND // 2)


@pytest.mark.parametrize("place", range(3))
async def test_a_stopped_etcd_node(nodes: list[EtcdServer], load: OpenLoad, place: int) -> None:
    nodes[place].freeze()
    try:
        await load.more(2 * _ONE_SECOND)
    finally:
        nodes[place].thaw()
    await asyncio.to_thread(nodes[place].wait_healthy)


# --- everything ---


async def test_a_rolling_restart_of_everything(cluster: LocalCluster, nodes: list[EtcdServer], load: OpenLoad) -> None:
    servers: list[ScorerProcess | FrontProcess] = [*cluster.scorers, *cluster.routers]
    for server in servers:
        await server.terminate()
        assert server.exit_code == 0, server.name
        await server.start()
        await load.more(_ONE_SECOND // 2)
    for node in nodes:
        node.process.send(signal.SIGTERM)
        await load.until(lambda: node.process.exit_code is not None, "the node to end")  # noqa: B023
        node.spawn()
        await asyncio.to_thread(node.wait_healthy)
        await load.more(_ONE_SECOND // 2)
    assert {scorer.id for scorer in cluster.scorers} <= load.served.keys()
