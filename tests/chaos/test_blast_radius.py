"""A model that ends scorers reaches the members of its tenant's shard and no others, until it's in quarantine.

Six members on three hosts, shards of three, two replicas. Tenants whose shards have no member in common with the
attacker's, or some but not all, go on without an error.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from client import AsyncClient, ScoreError
from ops.etcd_server import EtcdServer
from ops.local_cluster import LocalCluster
from ops.member_list import list_members
from registry.keys import encode
from registry.model import ModelRef, PlacementRecord
from registry.placement import Placement
from registry.quarantine import Quarantine
from tests.chaos.open_load import OpenLoad
from tests.chaos.poisons import POISONS, ROWS, publish_poisons
from tests.e2e.models import Shelf

pytestmark = pytest.mark.asyncio(loop_scope="module")
_SHARD, _REPLICAS = 3, 2
_ATTACKER = "acme"
_CRASHED = re.compile(rb"worker (\d+) (?:crashed with|hung in) .*; suspected: (\w+)$", re.MULTILINE)
_RATE = 200.0  # each member also loses time to starting again


class Attacked(NamedTuple):
    """A cluster with poisoned models. `shard`: ids of the attacker's members; `packages`: of the models."""

    local: LocalCluster
    placement: Placement
    shard: frozenset[str]
    packages: dict[ModelRef, str]

    def crashes(self, ref: ModelRef) -> Counter[str]:
        """The members that crashed or hung with a model, and how often."""
        found: Counter[str] = Counter()
        for scorer in self.local.scorers:
            for worker, package in _CRASHED.findall(scorer.log_path.read_bytes()):
                if package.decode() == self.packages[ref]:
                    found[f"{scorer.id}-{worker.decode()}"] += 1
        return found

    def tenant_that_shares(self, members: int) -> str:
        """A tenant so many of whose members are the attacker's."""
        names = (f"victim{number}" for number in count())
        return next(name for name in names if len(self.shard & _ids(self.placement, name)) == members)


def _ids(placement: Placement, tenant: str) -> frozenset[str]:
    return frozenset(member.id for member in placement.shard(tenant))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attacked]:
    directory: Path = tmp_path_factory.mktemp("blast")
    local = LocalCluster(
        directory,
        scorers=3,
        workers=2,
        etcd=[etcd_server.endpoint],
        cluster="blast",
        scorer_args=["--hang-s", "2", "--drain-s", "2", "--handover-s", "0"],
    )
    async with local:
        await local.etcd.put(local.keys.placement, encode(PlacementRecord(shard_size=_SHARD, replicas=_REPLICAS)))
        members = (await list_members(local.etcd, local.keys)).values()
        placement = Placement(members, replicas=_REPLICAS, shard_size=_SHARD)
        packages = await publish_poisons(local.store_url, local.etcd, local.keys, directory)
        yield Attacked(local, placement, _ids(placement, _ATTACKER), packages)


async def _attack(client: AsyncClient, ref: ModelRef) -> None:
    """Ask for a model until it's in quarantine."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.score(*ref, ROWS[:3], timeout_s=5)
            except ScoreError as error:
                if error.reason == "QUARANTINED":
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("poison", POISONS)
async def test_only_the_attackers_shard_is_hit(attacked: Attacked, etcd_server: EtcdServer, poison: str) -> None:
    local, ref = attacked.local, ModelRef(_ATTACKER, poison)
    shelf = Shelf(local.directory / "store", etcd_server, local.cluster)
    tenants = [attacked.tenant_that_shares(members) for members in range(_SHARD)]
    models = [await shelf.fresh(tenant=tenant) for tenant in tenants for _ in range(4)]
    async with AsyncClient(local.router_addresses) as client, AsyncClient(local.router_addresses) as attacker:
        async with OpenLoad(models, client, rate=_RATE) as load:
            await _attack(attacker, ref)
            await load.more(100)
        assert load.failures == {}, load.told
    crashes = attacked.crashes(ref)
    assert crashes.keys() <= attacked.shard
    assert 2 <= crashes.total() <= 2 * _SHARD, "two reports are the quarantine; some come back before it's known"
    records = await Quarantine(local.etcd, local.keys).list()
    assert [record.model for record in records].count(poison) == 1
