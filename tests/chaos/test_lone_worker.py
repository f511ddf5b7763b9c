"""One worker under its supervisor, which is what `python -m scorer` starts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from client import AsyncClient, ScoreError
from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.quarantine import Quarantine
from scorer.in_flight import read_seen
from tests.chaos.poisons import GOOD, ROWS, publish_poisons
from tests.e2e.cluster import Cluster, Server, wait_until
from tests.e2e.raw import PATIENCE_S


@pytest.fixture
def cluster(etcd_server: EtcdServer, tmp_path: Path) -> Iterator[Cluster]:
    """No server yet."""
    cluster = Cluster(tmp_path, etcd_server, f"file://{tmp_path}/store", name=f"lone-{uuid4().hex}", front="http2")
    yield cluster
    cluster.stop()


def _worker(supervisor: Server) -> psutil.Process:
    [worker] = psutil.Process(supervisor.process.pid).children()
    return worker


def _in_flight(worker: psutil.Process) -> tuple[str, ...]:
    """What the worker says that its threads are busy with."""
    words = worker.cmdline()
    number = words[words.index("--in-flight-fd") + 1]
    return read_seen(Path(f"/proc/{worker.pid}/fd/{number}").read_bytes()).packages


async def test_kills_by_hand_accuse_no_model(cluster: Cluster) -> None:
    """Not even one that is being scored, and is guilty."""
    etcd, keys = Etcd([cluster.etcd.endpoint]), Keys(cluster.name)
    supervisor = cluster.add_scorer("--workers", "1", "--id", "lone", "--hang-s", "600")
    hangs = ModelRef("acme", "hangs")
    packages = await publish_poisons(cluster.store_url, etcd, keys, cluster.directory)
    for starts in (1, 2, 3):
        wait_until(lambda: supervisor.log().count("scorer lone listening on") == starts, "the worker")  # noqa: B023
        address = supervisor.log().rpartition("scorer lone listening on ")[2].split()[0]
        async with AsyncClient([address]) as client:
            assert (await client.score(*GOOD, ROWS[:1], timeout_s=PATIENCE_S)).served_by == "lone"
            asking = asyncio.create_task(client.score(*hangs, ROWS[:1], timeout_s=PATIENCE_S))
            await asyncio.to_thread(wait_until, lambda: packages[hangs] in _in_flight(_worker(supervisor)))
            os.kill(_worker(supervisor).pid, signal.SIGKILL)
            with pytest.raises(ScoreError):
                await asking
    assert "suspected" not in supervisor.log()
    assert await Quarantine(etcd, keys).list() == []
    assert (await etcd.list_prefix(keys.suspects_prefix)).kvs == ()
    await etcd.aclose()


async def test_a_worker_drains_with_its_supervisor(cluster: Cluster) -> None:
    supervisor = cluster.add_scorer("--workers", "1")
    await asyncio.to_thread(supervisor.wait_health)
    worker = _worker(supervisor)
    supervisor.terminate()
    assert await asyncio.to_thread(supervisor.wait_end) == 0
    assert not worker.is_running()
    assert "draining" in supervisor.log()


def test_one_that_cannot_start_ends_with_what_it_said(cluster: Cluster) -> None:
    cluster.store_url = "ftp://nowhere"
    supervisor = cluster.add_scorer("--workers", "1")
    assert supervisor.wait_end() == 1
    assert "is not a store" in supervisor.log()
    assert "starting it again" not in supervisor.log()
    assert "Traceback" not in supervisor.log()
