"""What goes on, and what is said, while scorers or etcd are gone, frozen or not there yet."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from client import AsyncClient, ScoreError
from client.scores import Residency
from ops.etcd_server import EtcdServer
from registry.etcd import Etcd, TlsFiles
from registry.keys import Keys, decode_member
from registry.member_fold import MembersView
from registry.model import Member, ModelRef
from registry.placement import Placement
from router import config as router_config
from router.server import Router, link_tls
from scorer import config as scorer_config
from scorer.server import Scorer
from tests.e2e.cluster import Cluster, Server, wait_until
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf
from tests.e2e.raw import PATIENCE_S, check_plain, refused, unary_of

_UNPUBLISHED = Fresh(ModelRef("acme", "none"), "", "", np.zeros((1, 4)), np.zeros(1))


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd of the test's own, not started yet."""
    server = EtcdServer(tmp_path / "etcd")
    yield server
    server.terminate()


@pytest.fixture
def cluster(own_etcd: EtcdServer, store: GatedStore, tmp_path: Path) -> Iterator[Cluster]:
    """No server yet."""
    cluster = Cluster(tmp_path, own_etcd, store.url, name="chaos", front="http2")
    yield cluster
    cluster.stop()


@pytest.fixture
def shelf(cluster: Cluster, store: GatedStore) -> Shelf:
    return Shelf(store.directory, cluster.etcd, cluster.name)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    """Of a cluster that has its router by now."""
    cluster.etcd.start()
    cluster.start(scorers=2)
    async with cluster.client() as client:
        yield client


async def _members(cluster: Cluster) -> dict[str, Member]:
    etcd = Etcd([cluster.etcd.endpoint])
    try:
        keys = Keys(cluster.name)
        listing = await etcd.list_prefix(keys.members_prefix)
    finally:
        await etcd.aclose()
    return {member.id: member for member in (decode_member(kv.value) for kv in listing.kvs)}


async def _score(client: AsyncClient, fresh: Fresh) -> Residency:
    scores = await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    assert scores.values.tobytes() == fresh.expected.tobytes()
    return scores.residency


async def _refusal(client: AsyncClient, fresh: Fresh) -> ScoreError:
    with pytest.raises(ScoreError) as caught:
        await client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
    check_plain(caught.value.message)
    return caught.value


async def test_no_scorer_is_alive(cluster: Cluster, shelf: Shelf) -> None:
    cluster.etcd.start()
    cluster.add_router().wait_health()
    fresh = await shelf.fresh()
    async with cluster.client() as client:
        error = await _refusal(client, fresh)
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "NO_SCORER")
        assert error.message == "no scorer is alive in cluster 'chaos'"
        cluster.add_scorer().wait_health()
        cluster.wait_members(1)
        assert await _score(client, fresh) is Residency.COLD


async def test_etcd_comes_last(cluster: Cluster, shelf: Shelf, own_etcd: EtcdServer) -> None:
    """Router and scorer start while etcd is dead, say so, and work as soon as it is there."""
    router, scorer = cluster.add_router(), cluster.add_scorer()
    for server in (router, scorer):
        server.wait_health("NOT_SERVING")
    async with cluster.client() as client:
        error = await _refusal(client, _UNPUBLISHED)
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "NO_SCORER")
        assert error.message == "the router has not yet learned from etcd which scorers are alive"
        own_etcd.restart()
        cluster.wait_ready()
        assert await _score(client, await shelf.fresh()) is Residency.COLD


async def test_etcd_dies_and_comes_back(
    client: AsyncClient, cluster: Cluster, shelf: Shelf, own_etcd: EtcdServer
) -> None:
    resident, known, unknown = [await shelf.fresh() for _ in range(3)]
    assert await _score(client, resident) is Residency.COLD
    own_etcd.kill()
    for _ in range(20):
        assert await _score(client, resident) is Residency.HIT
    error = await _refusal(client, unknown)
    assert (error.code.name, error.reason) == ("UNAVAILABLE", "ETCD_UNAVAILABLE")
    assert "isn't cached here" in error.message
    assert await _score(client, resident) is Residency.HIT
    own_etcd.restart()
    seen = {"ETCD_UNAVAILABLE"}
    async with asyncio.timeout(30):
        while True:
            try:
                assert await _score(client, unknown) is Residency.COLD
                break
            except ScoreError as waiting:
                seen.add(waiting.reason)
    assert seen == {"ETCD_UNAVAILABLE"}
    assert await _score(client, known) is Residency.COLD
    await asyncio.to_thread(cluster.wait_ready)


async def test_members_stay_while_etcd_is_dead_for_longer_than_their_lease(
    cluster: Cluster, shelf: Shelf, own_etcd: EtcdServer
) -> None:
    own_etcd.start()
    scorer = cluster.add_scorer(lease_s=1.0)
    cluster.add_router()
    cluster.wait_ready()
    fresh = await shelf.fresh()
    async with cluster.client() as client:
        await _score(client, fresh)
        own_etcd.kill()
        await asyncio.to_thread(scorer.wait_health, "NOT_SERVING")
        for _ in range(20):
            assert await _score(client, fresh) is Residency.HIT
        own_etcd.restart()
        await asyncio.to_thread(scorer.wait_health)
        await asyncio.to_thread(cluster.wait_members, 1)
        assert await _score(client, fresh) is Residency.HIT


async def test_a_frozen_scorer_comes_back_as_a_new_incarnation(
    client: AsyncClient, cluster: Cluster, shelf: Shelf
) -> None:
    frozen = cluster.add_scorer(lease_s=1.0)
    await asyncio.to_thread(cluster.wait_ready)
    before = (await _members(cluster))[frozen.id]
    frozen.process.send(signal.SIGSTOP)
    await asyncio.to_thread(cluster.wait_members, 2)
    assert await _score(client, await shelf.fresh()) is Residency.COLD, "the others serve meanwhile"
    frozen.process.send(signal.SIGCONT)
    await asyncio.to_thread(wait_until, lambda: "is no longer announced" in frozen.log(), "it to notice")
    await asyncio.to_thread(cluster.wait_members, 3)
    frozen.wait_health()
    told = [line.partition("scorer.server ")[2] for line in frozen.log().splitlines() if "announced" in line]
    own = [line for line in told if line]
    assert own == [f"announced as {frozen.id}", f"{frozen.id} is no longer announced", f"announced as {frozen.id}"]
    after = (await _members(cluster))[frozen.id]
    assert after.incarnation != before.incarnation
    assert after.address == before.address


def _workers(supervisor: Server) -> dict[int, psutil.Process]:
    return {child.pid: child for child in psutil.Process(supervisor.process.pid).children()}


async def _wait_workers(cluster: Cluster, count: int) -> None:
    async with asyncio.timeout(40):
        while len(await _members(cluster)) != count:
            await asyncio.sleep(0.05)


async def test_a_supervisor_keeps_its_workers(cluster: Cluster, own_etcd: EtcdServer, shelf: Shelf) -> None:
    own_etcd.start()
    supervisor = cluster.add_scorer("--workers", "2", lease_s=2.0)
    router = cluster.add_router()
    await _wait_workers(cluster, 2)
    before = _workers(supervisor)
    assert len(before) == 2
    ids = set(await _members(cluster))

    victim = next(iter(before))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(_workers(supervisor).keys() - before.keys()) == 1, "a worker in its place")
    async with asyncio.timeout(40):
        while len(set(await _members(cluster)) - ids) != 1:  # it has another port, and so another id
            await asyncio.sleep(0.05)
    await asyncio.to_thread(wait_until, lambda: router.members >= 2, "the router to know")
    async with cluster.client() as client:
        await _score(client, await shelf.fresh())

    workers = _workers(supervisor)
    supervisor.terminate()
    assert await asyncio.to_thread(supervisor.wait_end) == 0
    assert not any(worker.is_running() for worker in workers.values())
    await _wait_workers(cluster, 0)


async def test_no_worker_outlives_a_killed_supervisor(cluster: Cluster, own_etcd: EtcdServer) -> None:
    own_etcd.start()
    supervisor = cluster.add_scorer("--workers", "2", lease_s=2.0)
    await _wait_workers(cluster, 2)
    workers = _workers(supervisor)
    supervisor.process.kill()
    _gone, alive = psutil.wait_procs(list(workers.values()), timeout=20)
    assert alive == []


async def test_a_supervisor_of_workers_that_cannot_start_stops_at_once(cluster: Cluster, own_etcd: EtcdServer) -> None:
    own_etcd.start()
    cluster.store_url = "ftp://nowhere"
    supervisor = cluster.add_scorer("--workers", "2")
    wait_until(lambda: supervisor.log().count("starting it again in 1.00 s") >= 2, "workers to end again and again")
    assert "is not a store" in supervisor.log()
    supervisor.terminate()
    assert await asyncio.to_thread(supervisor.wait_end) == 0
    assert "Traceback" not in supervisor.log()


@pytest.mark.parametrize("what", ["router", "scorer"])
async def test_a_port_that_is_taken(cluster: Cluster, own_etcd: EtcdServer, what: str) -> None:
    own_etcd.start()
    taken = cluster.add_router().address
    server = cluster.add_router("--listen", taken) if what == "router" else cluster.add_scorer("--listen", taken)
    assert server.wait_end() == 1
    assert f"can't listen on {taken}" in server.log()
    assert "Traceback" not in server.log()


async def test_news_of_members_do_not_make_a_draining_router_ready() -> None:
    """A rolling restart changes the members all the time; a router that is about to stop must stay out of it."""
    router = Router(router_config.parse(["--listen", "127.0.0.1:0", "--etcd", "127.0.0.1:1", "--drain-s", "0.4"]))
    async with router.running():
        router._on_placement(MembersView(1, 1, {}), Placement(()))
        assert router._health.ready
        draining = asyncio.create_task(router._drain())
        while router._health.ready:
            await asyncio.sleep(0)
        router._on_placement(MembersView(2, 2, {}), Placement(()))
        assert not router._health.ready
        await draining


async def test_a_new_announcement_does_not_make_a_draining_scorer_ready(tmp_path: Path) -> None:
    options = ["--store", f"file://{tmp_path}", "--cache-dir", str(tmp_path / "cache"), "--drain-s", "0.4"]
    options += ["--warm-s", "0"]
    scorer = Scorer(scorer_config.parse(["--listen", "127.0.0.1:0", "--etcd", "127.0.0.1:1", *options]))
    async with scorer.running():
        scorer._on_announced(True)
        assert scorer._health.ready
        draining = asyncio.create_task(scorer._drain())
        while scorer._health.ready:
            await asyncio.sleep(0)
        scorer._on_announced(True)
        assert not scorer._health.ready
        await draining


def test_tls_without_an_authority_trusts_what_the_machine_trusts(tls: TlsFiles) -> None:
    assert link_tls(None) is None
    own, public = link_tls(tls), link_tls(TlsFiles(Path(), tls.cert, tls.key))
    assert own is not None
    assert public is not None
    assert [len(context.get_ca_certs()) == 1 for context in (own, public)] == [True, False]
    assert public.verify_mode is ssl.CERT_REQUIRED


async def test_a_tls_server_refuses_whoever_shows_no_certificate(
    tmp_path: Path, own_etcd: EtcdServer, store: GatedStore, tls: TlsFiles
) -> None:
    own_etcd.start()
    cluster = Cluster(tmp_path, own_etcd, store.url, name="tls", front="http2", tls=tls)
    try:
        cluster.start(scorers=1)
        nameless = grpc.ssl_channel_credentials(tls.ca.read_bytes())
        for server in (cluster.routers[0], cluster.scorers[0]):
            for channel in (
                grpc.aio.insecure_channel(server.address),
                grpc.aio.secure_channel(server.address, nameless),
            ):
                async with channel:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await unary_of(channel, "Score")(b"", timeout=PATIENCE_S)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await refused(cluster, b"")).reason == "INVALID_REQUEST", "who shows one is let in"
    finally:
        cluster.stop()
