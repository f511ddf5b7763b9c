"""What networks do to the links of a cluster, and what becomes of etcd, under 500 requests a second: no request fails.

Three scorers: the first is reached through a proxy, the second reaches etcd through a proxy of its own. Two routers,
new for each test: the first reaches etcd through a proxy of its own. All others share one more to etcd.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from client import AsyncClient
from ops.etcd_server import EtcdServer, free_port
from ops.local_cluster import LocalCluster
from ops.member_list import list_members
from ops.server_process import FrontProcess, ScorerProcess
from registry.model import MemberState
from tests.chaos.open_load import RATE, OpenLoad
from tests.e2e.models import Fresh, Shelf
from tests.fault_proxy import FaultProxy, fault_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
_ONE_SECOND = int(RATE)
_STALE_S = 1.0
_COUNTERS = re.compile(r"counters: (\{.*\})$", re.MULTILINE)


class Links(NamedTuple):
    """The proxies: between routers and the first scorer, and before etcd for the second scorer, the first router, and
    the others.
    """

    scorer: FaultProxy
    etcd_of_scorer: FaultProxy
    etcd_of_router: FaultProxy
    etcd_of_others: FaultProxy

    @property
    def to_etcd(self) -> tuple[FaultProxy, ...]:
        return self.etcd_of_scorer, self.etcd_of_router, self.etcd_of_others


class Net(NamedTuple):
    """A cluster without routers; `models` are in it."""

    local: LocalCluster
    links: Links
    models: list[Fresh]

    def new_router(self, number: int) -> FrontProcess:
        proxy = self.links.etcd_of_others if number else self.links.etcd_of_router
        arguments = ["--etcd", proxy.address, "--drain-s", "2", "--stale-view-s", str(_STALE_S)]
        return FrontProcess(f"router{number}", "router", arguments, self.local.directory / f"router{number}.log")

    def new_scorer(self, number: int, etcd: FaultProxy, *arguments: str) -> ScorerProcess:
        local, name = self.local, f"scorer{number}"
        common = ["--etcd", etcd.address, "--store", local.store_url, "--lease-s", "3", "--drain-s", "2"]
        common += ["--cache-dir", str(local.directory / name), "--handover-s", "0", *arguments]
        return ScorerProcess(name, common, local.directory / f"{name}.log", local.etcd, local.keys)


@pytest.fixture(scope="module")
def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data")
    server.start()
    yield server
    server.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(own_etcd: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    directory: Path = tmp_path_factory.mktemp("net")
    local = LocalCluster(directory, scorers=0, routers=0, etcd=[own_etcd.endpoint])
    port = free_port()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(fault_proxy(f"127.0.0.1:{port}", f"127.0.0.2:{port}"))
        to_etcd = [await stack.enter_async_context(fault_proxy(own_etcd.endpoint)) for _ in range(3)]
        await stack.enter_async_context(local)
        net = Net(local, Links(first, *to_etcd), [])
        local.scorers = [
            net.new_scorer(0, net.links.etcd_of_others, "--advertise-host", "127.0.0.2"),
            net.new_scorer(1, net.links.etcd_of_scorer),
            net.new_scorer(2, net.links.etcd_of_others),
        ]
        local.scorers[0].address = f"127.0.0.1:{port}"
        for scorer in local.scorers:
            await scorer.begin()
        for scorer in local.scorers:
            await scorer.wait_announced()
        shelf = Shelf(directory / "store", own_etcd, local.cluster)
        net.models.extend([await shelf.fresh(tenant=f"tenant{number % 3}") for number in range(12)])
        yield net


@pytest_asyncio.fixture(loop_scope="module")
async def routers(net: Net) -> AsyncIterator[list[FrontProcess]]:
    """New ones, which have left out nobody yet, while all scorers are there."""
    await _until_ready(net)
    routers = [net.new_router(number) for number in range(2)]
    await asyncio.gather(*(router.start() for router in routers))
    yield routers
    for router in routers:
        router.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def load(net: Net, routers: list[FrontProcess]) -> AsyncIterator[OpenLoad]:
    """All scorers answer before the test begins, and whatever it did to the network is over when the load ends."""
    async with AsyncClient([router.address for router in routers]) as client:
        async with OpenLoad(net.models, client) as load:
            async with asyncio.timeout(30):
                while len(load.served) < len(net.local.scorers):
                    await load.more(20)
            yield load
            for proxy in net.links:
                await proxy.heal()
        assert load.failures == {}, load.told
        assert load.served.total() == load.sent


async def _until_ready(net: Net) -> None:
    async with asyncio.timeout(60):
        while True:
            members = await list_members(net.local.etcd, net.local.keys)
            if [member.state for member in members.values()] == [MemberState.READY] * 3:
                return
            await asyncio.sleep(0.02)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def _view_age_s(router: FrontProcess) -> float:
    """What a router tells of itself."""
    told = len(_COUNTERS.findall(router.log_since_start().decode()))
    router.process.send(signal.SIGUSR1)
    await _until(lambda: len(_COUNTERS.findall(router.log_since_start().decode())) > told)
    return float(json.loads(_COUNTERS.findall(router.log_since_start().decode())[-1])["view_age_s"])


def _delay(proxy: FaultProxy) -> None:
    proxy.up.delay_s = proxy.down.delay_s = 0.3


def _lose_requests(proxy: FaultProxy) -> None:
    proxy.up.dropping = True


def _lose_answers(proxy: FaultProxy) -> None:
    proxy.down.dropping = True


def _lose_both(proxy: FaultProxy) -> None:
    proxy.up.dropping = proxy.down.dropping = True


def _reset_requests(proxy: FaultProxy) -> None:
    proxy.up.reset_after = 3000.0


def _reset_answers(proxy: FaultProxy) -> None:
    proxy.down.reset_after = 3000.0


def _reset_first_answers(proxy: FaultProxy) -> None:
    """No connection lives for longer than its first messages."""
    proxy.down.reset_after = 100.0


def _refuse(proxy: FaultProxy) -> None:
    proxy.refusing = True


Fault = Callable[[FaultProxy], None]
_SILENT = (_lose_requests, _lose_answers, _lose_both)
_RESETS = (_reset_requests, _reset_answers)


@pytest.mark.parametrize("fault", [_delay, *_SILENT, _refuse])
async def test_a_bad_link_to_a_scorer_is_left_out(net: Net, load: OpenLoad, fault: Fault) -> None:
    await _begin(fault, net.links.scorer)
    await load.more(_ONE_SECOND)
    await load.settle()
    answered = await load.more(_ONE_SECOND)
    assert answered["scorer0"] < 0.2 * answered.total()


@pytest.mark.parametrize("fault", _RESETS)
async def test_a_link_to_a_scorer_that_is_reset_in_the_middle_of_messages(
    net: Net, load: OpenLoad, fault: Fault
) -> None:
    """What's reset is sent elsewhere, what isn't is answered: a link that mostly works isn't left out."""
    proxy = net.links.scorer
    await _begin(fault, proxy)
    await _until(lambda: proxy.up.resets + proxy.down.resets >= 5)
    await load.more(_ONE_SECOND)


@pytest.mark.parametrize("fault", [*_SILENT, _reset_first_answers, _refuse])
async def test_a_router_that_is_cut_off_from_etcd(
    net: Net, load: OpenLoad, routers: list[FrontProcess], fault: Fault
) -> None:
    """The last view keeps routing, and it tells how old it is."""
    router, proxy = routers[0], net.links.etcd_of_router
    await _begin(fault, proxy)
    await _until(lambda: b"nothing heard from etcd for" in router.log_since_start())
    assert await _view_age_s(router) > _STALE_S
    await load.more(_ONE_SECOND)
    await proxy.heal()
    async with asyncio.timeout(30):
        while await _view_age_s(router) > _STALE_S:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", [_lose_answers, _lose_both, _reset_first_answers])
async def test_a_scorer_that_is_cut_off_from_etcd(net: Net, load: OpenLoad, fault: Fault) -> None:
    """For longer than its lease, so that routers leave it."""
    proxy = net.links.etcd_of_scorer
    await _begin(fault, proxy)
    async with asyncio.timeout(30):
        while "scorer1" in await list_members(net.local.etcd, net.local.keys):
            await asyncio.sleep(0.05)
    await load.more(_ONE_SECOND // 2)
    await proxy.heal()
    await _until_ready(net)
    await load.more(_ONE_SECOND // 2)


async def _begin(fault: Fault, proxy: FaultProxy) -> None:
    """Connections that are there suffer it, too."""
    fault(proxy)
    if fault in (_refuse, _reset_first_answers):
        await proxy.reset_all()


async def test_a_slow_etcd(net: Net, load: OpenLoad) -> None:
    for proxy in net.links.to_etcd:
        proxy.up.delay_s = proxy.down.delay_s = 0.5
    await load.more(3 * _ONE_SECOND)


async def test_a_compacted_etcd(net: Net, load: OpenLoad) -> None:
    """What was written while nobody could listen is compacted away before they come back."""
    etcd, key = net.local.etcd, net.local.keys.tenant("another")
    for proxy in net.links.to_etcd:
        _refuse(proxy)
        await proxy.reset_all()
    for _ in range(20):
        revision = await etcd.put(key, b'{"tenant": "another"}')
    await etcd.compact(revision)
    for proxy in net.links.to_etcd:
        proxy.refusing = False
    await load.more(2 * _ONE_SECOND)
    await _until_ready(net)


async def test_a_wiped_etcd(net: Net, load: OpenLoad, own_etcd: EtcdServer) -> None:
    own_etcd.kill()
    await load.more(_ONE_SECOND)
    own_etcd.wipe()
    own_etcd.spawn()
    await asyncio.to_thread(own_etcd.wait_healthy)
    await _until_ready(net)
    await load.more(_ONE_SECOND)
