"""Real etcd servers of both versions, a client, and TCP proxies that do to connections what networks do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer, find_binary
from registry.etcd import Etcd
from registry.keys import Keys
from tests.fault_proxy import FaultProxy, fault_proxy

# A lone node elects itself after one election timeout, so a short one makes starts quick.
FAST = ("--heartbeat-interval", "50", "--election-timeout", "500")

Crash = Callable[[EtcdServer], Awaitable[None]]
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


def etcd34_or_skip() -> Path:
    binary = Path(os.environ.get("SCOREMESH_ETCD34", "/usr/bin/etcd"))
    if not binary.exists():
        pytest.skip(f"no etcd 3.4 at {binary}; set SCOREMESH_ETCD34")
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    if "etcd Version: 3.4" not in version:
        pytest.skip(f"{binary} is not etcd 3.4; set SCOREMESH_ETCD34")
    return binary


@pytest.fixture(scope="session", params=["etcd-3.4", "etcd-3.5"])
def etcd_binary(request: pytest.FixtureRequest) -> Path:
    return etcd34_or_skip() if request.param == "etcd-3.4" else find_binary()


@pytest.fixture(scope="session")
def etcd_server(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One node, shared by all tests that don't harm it; keep them apart by `keys`."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data", binary=etcd_binary, extra_args=FAST)
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def own_server(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServer]:
    """One node of the test's own, to be killed, frozen and wiped."""
    server = EtcdServer(tmp_path / "etcd", binary=etcd_binary, extra_args=FAST)
    server.start()
    yield server
    server.terminate()


@pytest.fixture
async def etcd(etcd_server: EtcdServer) -> AsyncIterator[Etcd]:
    client = Etcd([etcd_server.endpoint])
    yield client
    await client.aclose()


@pytest.fixture
async def own_etcd(own_server: EtcdServer) -> AsyncIterator[Etcd]:
    client = Etcd([own_server.endpoint], timeout_s=1.0)
    yield client
    await client.aclose()


@pytest.fixture
def crash(etcd_binary: Path) -> Crash:
    """kill -9. Where the data must survive it, etcd 3.5.0 to 3.5.2 gets a SIGTERM instead: killed at the wrong
    moment it forgets a write that it had acknowledged (etcd's postmortem v3.5-data-inconsistency; once in about a
    hundred kills here), which no client can make good."""

    async def end(server: EtcdServer) -> None:
        if etcd_binary == find_binary():
            await asyncio.to_thread(server.terminate)
        else:
            server.kill()

    return end


@pytest.fixture
def keys() -> Keys:
    return Keys(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def wait_until() -> WaitUntil:
    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
async def make_proxy() -> AsyncIterator[Callable[[str], Awaitable[FaultProxy]]]:
    async with AsyncExitStack() as made:
        yield lambda target: made.enter_async_context(fault_proxy(target))
