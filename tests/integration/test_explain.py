"""The commands `explain` and `placement`, against a real etcd."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import Member, MemberState, ModelRecord, ModelRef, PlacementRecord, TenantRecord
from registry.placement import Placement
from registry.shards import rule_of
from tests.e2e.command import invoke

TENANTS = [f"t{number:02}" for number in range(40)]


def member(number: int, state: MemberState = MemberState.READY, pool: str = "default") -> Member:
    return Member(f"s{number}", f"127.0.0.1:{number}", f"h{number}", f"z{number % 3}", pool, 1 << 30, "1", state)


MEMBERS = [*map(member, range(12)), member(12, MemberState.DRAINING), member(13, pool="acme")]
RECORDS = [
    TenantRecord(tenant="t00", shard_size=6),
    TenantRecord(tenant="acme", dedicated_pool="acme"),
    TenantRecord(tenant="vip", premium=True, created_at="then"),
]


@pytest.fixture
async def placed(etcd: Etcd, keys: Keys) -> Placement:
    """What the commands must find. Some tenants have settings alone, most have models alone."""
    for one in MEMBERS:
        await etcd.put(keys.member(one.id), encode(one))
    for record in RECORDS:
        await etcd.put(keys.tenant(record.tenant), encode(record))
    await etcd.put(keys.tenant("damaged"), b"{")
    for name in TENANTS:
        for model in ("a", "b"):
            await etcd.put(keys.model(ModelRef(name, model)), encode(ModelRecord(1, {})))
    await etcd.put(keys.models_prefix + b"stray", b"")
    rules = {record.tenant: rule_of(record) for record in RECORDS}
    return Placement(MEMBERS, replicas=2, shard_size=4, rules=rules)


@pytest.fixture
def command(etcd_server: EtcdServer, keys: Keys) -> Any:
    async def run(*arguments: str, status: int = 0) -> str:
        where = ["--etcd", etcd_server.endpoint, "--cluster", keys.placement.decode().split("/")[2]]
        done = await asyncio.to_thread(invoke, *arguments, *where)
        assert done.exit_code == status, (done.output, done.exception)
        return done.output

    return run


async def test_a_tenant(placed: Placement, command: Any) -> None:
    found = json.loads(await command("explain", "tenant", "t01", "-o", "json"))
    assert [one["id"] for one in found["shard"]] == [one.id for one in placed.shard("t01")]
    assert (found["members"], found["shard_size"], found["replicas"], found["known"]) == (12, 4, 2, True)
    assert {one["tenant"] for one in found["neighbours"]} == {*TENANTS, "acme", "vip", "damaged"} - {"t01"}
    own = {one.id for one in placed.shard("t01")}
    for one in found["neighbours"]:
        assert set(one["shared"]) == own & {other.id for other in placed.shard(one["tenant"])}
    assert sum(one["tenants"] for one in found["overlaps"]) == found["blast_radius"]["others"] == 42
    assert found["blast_radius"]["expected_models_lost"] == pytest.approx(6 / 66)
    text = await command("explain", "tenant", "t01")
    for words in ("tenant t01: 4 of 12 members, 2 replicas a model", "C(4,2)/C(12,2): 9.09 %", "of 42 other tenants"):
        assert words in text
    for one in placed.shard("t01"):
        assert f"{one.id} " in text


async def test_a_dedicated_tenant_shares_nothing(placed: Placement, command: Any) -> None:
    found = json.loads(await command("explain", "tenant", "acme", "-o", "json"))
    assert [one["id"] for one in found["shard"]] == ["s13"]
    assert [(one["shared"], one["tenants"]) for one in found["overlaps"]] == [(0, 42), (1, 0)]
    assert "who shares most" not in await command("explain", "tenant", "acme")


async def test_a_model(placed: Placement, command: Any) -> None:
    found = json.loads(await command("explain", "model", "t00/a", "-o", "json"))
    candidates = placed.candidates("t00", "a")
    assert [(one["id"], one["rank"]) for one in found["ranks"]] == [
        (one.id, rank) for rank, one in enumerate(candidates, start=1)
    ]
    assert [one["role"] for one in found["ranks"]][:6] == ["replica"] * 2 + ["shard"] * 4
    assert {one["role"] for one in found["ranks"][6:]} <= {"last resort"}
    owners = {one.id for one in placed.owners(ModelRef("t00", "a"))}
    wanted = [name for name in TENANTS[1:] if owners <= {one.id for one in placed.shard(name)}]
    assert [name for name in found["sharing_all_replicas"] if name in TENANTS] == wanted
    text = await command("explain", "model", "t00/a")
    assert "model t00/a: 2 replicas in a shard of 6 of 12 members" in text
    assert "C(k,R)/C(N,R) = C(6,2)/C(12,2) = 22.7 %" in text


async def test_an_empty_cluster(etcd: Etcd, command: Any) -> None:
    assert "no scorer is alive" in await command("explain", "tenant", "nobody")
    assert "no scorer is alive" in await command("explain", "model", "nobody/m")
    await command("explain", "tenant", "a b", status=1)


async def test_placement_is_one_record(placed: Placement, etcd: Etcd, keys: Keys, command: Any) -> None:
    assert json.loads(await command("placement", "show", "-o", "json")) == [
        {"replicas": 2, "shard_size": 4, "refill_after_s": 60.0}
    ]
    await command("placement", "set", "--shard-size", "3")
    await command("placement", "set", "--replicas", "1", "--refill-after-s", "5")
    _, held = await etcd.get(keys.placement)
    assert held is not None
    assert held.value == encode(PlacementRecord(replicas=1, shard_size=3, refill_after_s=5.0))
    assert "tenant t01: 3 of 12 members, 1 replicas a model" in await command("explain", "tenant", "t01")
    await etcd.put(keys.placement, b"{")
    await command("placement", "show", status=1)
    await command("placement", "set", "--replicas", "0", status=2)
