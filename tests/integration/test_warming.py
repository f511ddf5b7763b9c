"""Whole scorers that come, leave and vanish: what others had in memory is loaded before traffic comes for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer, free_port
from registry.keys import Keys, encode
from registry.model import Member, MemberState, ModelRef
from registry.placement import Placement
from registry.rollout.loadable import loadable
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_HIT
from scorer import warming
from scorer.inheritance import asked
from scorer.server import RESIDENCY_SERVICE
from tests.fault_proxy import fault_proxy
from tests.integration.conftest import WaitUntil
from tests.integration.scorer_fleet import Asked, Place, place_at

PREPARE = f"{RESIDENCY_SERVICE}/Prepare"


@pytest.fixture
async def place(etcd_server: EtcdServer, keys: Keys, tmp_path: Path) -> AsyncIterator[Place]:
    async with place_at(etcd_server, keys, tmp_path) as place:
        yield place


async def fill(place: Place, scorer: Asked, count: int) -> list[ModelRef]:
    """Publish models and have a scorer load them, the last one the hottest."""
    refs = await place.publish(count)
    for number, ref in enumerate(refs):
        for _ in range(1 + number):
            await scorer.score(ref)
    return refs


async def test_what_is_in_memory_is_told_hottest_first_with_all_that_a_load_needs(place: Place) -> None:
    async with place.scorer("a") as a:
        refs = await fill(place, a, 4)
        told = await a.list_resident()
        assert [ModelRef(one.tenant, one.model) for one in told] == refs[::-1]
        assert [one.version for one in told] == [loadable(place.models[ref], ref.model) for ref in refs[::-1]]
        demands = [one.demand for one in told]
        assert demands == sorted(demands, reverse=True)
        assert demands[-1] > 0
        assert await a.list_resident(limit=2) == told[:2]


async def test_a_newcomer_has_what_it_will_be_asked_for_before_it_is_ready(place: Place) -> None:
    async with place.scorer("a") as a:
        await place.wait_state("a", MemberState.READY)
        refs = await fill(place, a, 6)
        async with place.scorer("b") as b:
            await place.wait_state("b", MemberState.READY)
            assert b.packages == place.packages(refs)
            assert [(await b.score(ref)).residency for ref in refs] == [RESIDENCY_HIT] * len(refs)
            told = {ModelRef(one.tenant, one.model) for one in await b.list_resident()}
            assert told == set(refs), "it can tell the next one"


async def test_it_takes_only_what_it_will_own(place: Place) -> None:
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(place.scorer(name)) for name in "ab"]
        for name in "ab":
            await place.wait_state(name, MemberState.READY)
        refs = await fill(place, a, 8)
        for ref in refs[:4]:
            await b.score(ref)
        c = await stack.enter_async_context(place.scorer("c"))
        await place.wait_state("c", MemberState.READY)
        mine = [ref for ref in refs if "c" in asked(among(a, b, c), ref)]
        assert 0 < len(mine) < len(refs)
        assert c.packages == place.packages(mine)


def among(*scorers: Asked) -> Placement:
    return Placement([scorer.member for scorer in scorers])


async def test_with_little_memory_the_hottest_come(place: Place) -> None:
    async with place.scorer("a") as a:
        await place.wait_state("a", MemberState.READY)
        refs = await fill(place, a, 6)
        room = 3.5 * 100_000 / (1 << 20)  # each reserves 100,000 bytes
        async with place.scorer("b", "--capacity-mib", str(room)) as b:
            await place.wait_state("b", MemberState.READY)
            first = [ref for ref in refs[::-1] if asked(among(a, b), ref)[0] == "b"]
            second = [ref for ref in refs[::-1] if asked(among(a, b), ref)[0] != "b"]
            assert b.packages == place.packages((first + second)[:3])


async def test_while_it_warms_it_says_so_and_no_request_is_needed_to_end_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.scorer("a") as a:
        await place.wait_state("a", MemberState.READY)
        await fill(place, a, 2)
        gate, real = asyncio.Event(), warming.Warming._load

        async def held_up(self: warming.Warming, held: object) -> None:
            await gate.wait()
            await real(self, held)  # type: ignore[arg-type]

        monkeypatch.setattr(warming.Warming, "_load", held_up)
        async with place.scorer("b") as b:
            await place.wait_state("b", MemberState.WARMING)
            assert await b.health() == "NOT_SERVING"
            gate.set()
            await place.wait_state("b", MemberState.READY)
            assert len(b.packages) == 2


async def test_a_warm_up_ends_with_its_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_self: warming.Warming, _held: object) -> None:
        await asyncio.Event().wait()

    async with place.scorer("a") as a:
        await place.wait_state("a", MemberState.READY)
        await fill(place, a, 2)
        monkeypatch.setattr(warming.Warming, "_load", never)
        async with place.scorer("b", "--warm-s", "0.3") as b:
            await place.wait_state("b", MemberState.READY)
            assert b.packages == set()


async def test_members_that_refuse_or_keep_silent_hold_nobody_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_ASK_S", 0.5)
    async with place.scorer("a") as a, fault_proxy(a.scorer.member.address) as proxy:
        await place.wait_state("a", MemberState.READY)
        refs = await fill(place, a, 2)
        proxy.down.dropping = True
        addresses = {"dead": f"127.0.0.1:{free_port()}", "silent": proxy.address}
        ghosts = [Member(name, address, name, "default", "default", 1, "1") for name, address in addresses.items()]
        for ghost in ghosts:
            await place.etcd.put(place.keys.member(ghost.id), encode(ghost))
        async with place.scorer("b") as b:
            await place.wait_state("b", MemberState.READY)
            then = Placement([a.member, b.member, *ghosts])
            assert b.packages == place.packages([ref for ref in refs if "b" in asked(then, ref)])


async def test_without_a_warm_up_it_is_ready_at_once_and_empty(place: Place) -> None:
    async with place.scorer("a") as a:
        await place.wait_state("a", MemberState.READY)
        refs = await fill(place, a, 2)
        async with place.scorer("b", "--warm-s", "0") as b:
            assert b.scorer.member.state is MemberState.READY
            await place.wait_state("b", MemberState.READY)
            assert b.packages == set()
            assert (await b.score(refs[0])).residency == RESIDENCY_COLD


async def test_who_leaves_hands_over_first(place: Place) -> None:
    async with AsyncExitStack() as stack:
        b, c = [await stack.enter_async_context(place.scorer(name, "--warm-s", "0")) for name in "bc"]
        for name in "bc":
            await place.wait_state(name, MemberState.READY)
        async with place.scorer("a") as a:
            await place.wait_state("a", MemberState.READY)
            refs = await fill(place, a, 8)
            assert b.packages == c.packages == set()
        for heir in (b, c):
            assert heir.packages == place.packages([ref for ref in refs if heir.id in asked(among(b, c), ref)])
            assert [(await heir.score(ref)).residency for ref in refs] == [RESIDENCY_HIT] * len(refs)
        assert await place.member("a") is None


async def test_while_it_hands_over_it_is_leaving_and_still_serves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.scorer("b", "--warm-s", "0") as b:
        await place.wait_state("b", MemberState.READY)
        gate, real = asyncio.Event(), b.scorer._residency.take_over

        async def held_up(*arguments: object) -> None:
            await gate.wait()
            await real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(b.scorer._residency, "take_over", held_up)
        leave, a = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def live() -> None:
            async with place.scorer("a", "--handover-s", "60") as scorer:
                a.set_result(scorer)
                await leave.wait()

        life = asyncio.create_task(live())
        await place.wait_ready(await a)
        (ref,) = await place.publish(1)
        await (await a).score(ref)
        leave.set()
        await place.wait_state("a", MemberState.LEAVING)
        assert (await (await a).score(ref)).residency == RESIDENCY_HIT
        assert await (await a).health() == "NOT_SERVING"
        gate.set()
        await life
        assert b.packages == place.packages([ref])


async def test_two_that_leave_give_nothing_to_each_other(place: Place) -> None:
    async with place.scorer("b", "--warm-s", "0") as b:
        await place.wait_state("b", MemberState.READY)
        (ref,) = await place.publish(1)
        b.scorer._residency.leave()
        asking = pb.PrepareRequest(preparations=[pb.Preparation(handover=True, load=[loadable(place.models[ref])])])
        answer = await b.call(PREPARE, asking, pb.PrepareResponse)
        assert answer.prepared[0].code == 14
        assert b.packages == set()


async def test_what_is_handed_over_takes_no_more_than_there_is_room_for_and_stays(place: Place) -> None:
    room = 190_000 / (1 << 20)  # each reserves 100,000 bytes and then counts as 25,000
    async with place.scorer("b", "--warm-s", "0", "--capacity-mib", str(room)) as b:
        refs = await place.publish(8)
        for ref in refs[6:]:
            for _ in range(20):
                await b.score(ref)
        load = [pb.Preparation(handover=True, load=[loadable(place.models[ref], ref.model)]) for ref in refs[:6]]
        codes = []
        for preparation in load:
            answer = await b.call(PREPARE, pb.PrepareRequest(preparations=[preparation]), pb.PrepareResponse)
            codes.append(answer.prepared[0].code)
        assert codes[0] == 0
        assert set(codes) == {0, 8}
        assert codes == sorted(codes), "once there is no room, there is none"
        assert place.packages(refs[6:]) <= b.packages, "what is asked for stays"
        assert place.packages(refs[: codes.count(0)]) <= b.packages, "nothing handed over drove out another one"


async def test_what_falls_to_a_member_when_another_vanishes_is_loaded(
    place: Place, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    monkeypatch.setattr(warming, "_SETTLE_S", 0.01)
    ghost = Member("ghost", f"127.0.0.1:{free_port()}", "ghost", "default", "default", 512 << 20, "1")
    await place.etcd.put(place.keys.member("ghost"), encode(ghost))
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(place.scorer(name)) for name in "ab"]
        for name in "ab":
            await place.wait_state(name, MemberState.READY)
        refs = await fill(place, a, 8)
        await wait_until(lambda: len(b.scorer._neighbours.view.members) == 3)
        before = Placement([a.member, b.member, ghost])
        heir_of = [ref for ref in refs if "b" not in asked(before, ref)]
        assert heir_of
        assert b.packages == set()
        await place.etcd.delete(place.keys.member("ghost"))
        await wait_until(lambda: b.packages == place.packages(heir_of))
