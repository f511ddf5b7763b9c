"""`LocalCluster` as other programs use it: parts that die, freeze, restart and join; TLS; several workers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest

from client import AsyncClient, ScoreError
from ops.local_cluster import LocalCluster
from ops.member_list import list_members
from ops.server_process import tls_credentials
from registry.errors import UnavailableError
from registry.etcd import TlsFiles
from tests.e2e.cluster import wait_until
from tests.e2e.command import wait_all_gone


def running_children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, scorers=2) as cluster:
        yield cluster


async def reason(client: AsyncClient) -> str:
    """Why a model that was never published isn't scored: whether a scorer was asked."""
    with pytest.raises(ScoreError) as caught:
        await client.score("acme", "nothing", [[1.0]], timeout_s=10)
    return caught.value.reason


async def test_a_router_that_is_ready_knows_the_scorers(local: LocalCluster) -> None:
    async with AsyncClient(local.router_addresses) as client:
        assert await reason(client) == "MODEL_NOT_FOUND"
    members = await list_members(local.etcd, local.keys)
    assert {(member.id, member.address) for member in members.values()} == {(s.id, s.address) for s in local.scorers}
    assert len({member.host for member in members.values()}) == 2


async def test_parts_restart_under_their_id_and_address(local: LocalCluster) -> None:
    scorer, router = local.scorers[0], local.routers[0]
    before = (scorer.address, router.address)
    first = (await list_members(local.etcd, local.keys))[scorer.id]
    scorer.kill()
    assert scorer.exit_code == -9
    assert local.ended() == [(scorer.id, -9, scorer.log_path)]
    await scorer.restart()
    second = (await list_members(local.etcd, local.keys))[scorer.id]
    assert second.incarnation != first.incarnation
    scorer.stop()
    frozen = psutil.Process(scorer.pid)
    wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED, "the scorer to be frozen")
    scorer.cont()
    await scorer.terminate()
    assert scorer.exit_code == 0
    assert scorer.id not in await list_members(local.etcd, local.keys)
    await scorer.restart()
    await router.restart()
    assert (scorer.address, router.address) == before
    async with AsyncClient(local.router_addresses) as client:
        assert await reason(client) == "MODEL_NOT_FOUND"


async def test_parts_join(local: LocalCluster) -> None:
    router, scorer = await local.start_router(), await local.start_scorer()
    assert len(set(local.router_addresses)) == 2
    assert scorer.id in await list_members(local.etcd, local.keys)
    async with AsyncClient(router.address) as client:
        assert await reason(client) == "MODEL_NOT_FOUND"


async def test_workers_and_tls(tls: TlsFiles, tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, scorers=1, workers=2, tls=tls) as cluster:
        members = await list_members(cluster.etcd, cluster.keys)
        assert sorted(members) == ["local-0-0", "local-0-1"]
        assert {member.capacity_bytes for member in members.values()} == {128 << 20}
        assert cluster.scorers[0].address == members["local-0-0"].address
        async with AsyncClient(cluster.router_addresses, credentials=tls_credentials(tls)) as client:
            assert await reason(client) == "MODEL_NOT_FOUND"
        async with AsyncClient(cluster.router_addresses) as plain:
            with pytest.raises(ScoreError) as caught:
                await plain.score("acme", "nothing", [[1.0]])
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_nothing_is_left_of_a_cluster_that_does_not_come_up(tmp_path: Path) -> None:
    before = running_children()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cluster = LocalCluster(tmp_path, scorers=1, router_port=taken.getsockname()[1])
        with pytest.raises(UnavailableError, match=r"router-0 ended with status 1: .*can't listen on"):
            await cluster.__aenter__()
    assert running_children() == before


async def test_leaving_stops_frozen_parts_too(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, scorers=1) as cluster:
        children = [psutil.Process(server.pid) for server in (*cluster.routers, *cluster.scorers)]
        cluster.scorers[0].stop()
    wait_all_gone(children)
    await cluster.aclose()
