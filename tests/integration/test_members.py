from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from ops.etcd_server import EtcdServer, free_port
from registry.etcd import Etcd
from registry.etcd_endpoints import LEASE_REVOKE
from registry.keys import Keys, encode
from registry.member_fold import MembersView
from registry.members import Announcement, follow_members
from registry.model import Member, MemberState
from scoremesh.etcd.v1 import etcd_pb2 as pb

WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
MEMBER = Member(
    id="m1", address="127.0.0.1:1", host="h", zone="z", pool="lightgbm", capacity_bytes=1, incarnation="first"
)


class Story:
    """What happened, in order: "ready", "not ready", and the incarnation or "gone" for each view."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.view: MembersView | None = None

    def on_ready(self, ready: bool) -> None:
        self.lines.append("ready" if ready else "not ready")

    def on_view(self, view: MembersView) -> None:
        self.view = view
        self.lines.append(view.members["m1"].incarnation if "m1" in view.members else "gone")

    def member(self) -> Member | None:
        return self.view.members.get("m1") if self.view else None


async def follow(etcd: Etcd, keys: Keys, story: Story) -> AsyncIterator[None]:
    following = asyncio.create_task(follow_members(etcd, keys, story.on_view))
    yield
    following.cancel()
    await asyncio.wait({following})


@pytest.fixture
async def story(etcd: Etcd, keys: Keys) -> AsyncIterator[Story]:
    """Of the shared server."""
    told = Story()
    async for _ in follow(etcd, keys, told):
        yield told


@pytest.fixture
async def own_story(own_etcd: Etcd, keys: Keys) -> AsyncIterator[Story]:
    told = Story()
    async for _ in follow(own_etcd, keys, told):
        yield told


async def test_announce_drain_withdraw(etcd: Etcd, keys: Keys, story: Story, wait_until: WaitUntil) -> None:
    announcement = Announcement(etcd, keys, MEMBER, story.on_ready)
    announcement.start()
    await wait_until(lambda: story.member() == MEMBER)
    await wait_until(lambda: "ready" in story.lines)
    announcement.set_state(MemberState.DRAINING)
    await announcement.wait_announced()
    await wait_until(lambda: story.member() == msgspec.structs.replace(MEMBER, state=MemberState.DRAINING))
    await announcement.withdraw()
    await wait_until(lambda: story.member() is None)
    assert story.lines.count("ready") == 1
    assert "not ready" not in story.lines


async def test_not_ready_comes_before_the_new_announcement(
    etcd: Etcd, keys: Keys, story: Story, wait_until: WaitUntil
) -> None:
    announcement = Announcement(etcd, keys, MEMBER, story.on_ready, ttl_s=2.0)
    announcement.start()
    await wait_until(lambda: story.member() == MEMBER and story.lines[-2:] != [] and "ready" in story.lines)
    story.lines.clear()
    assert announcement._lease is not None
    await etcd.endpoints.call(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=announcement._lease.id))
    await wait_until(lambda: story.member() not in (None, MEMBER) and "ready" in story.lines)
    anew = story.member()
    assert anew is not None
    assert anew.incarnation != "first"
    assert story.lines[:2] in (["gone", "not ready"], ["not ready", "gone"])
    assert sorted(story.lines[2:]) == sorted([anew.incarnation, "ready"])
    await announcement.withdraw()


async def test_a_dead_etcd_makes_not_ready_and_its_return_ready(
    own_server: EtcdServer, own_etcd: Etcd, own_story: Story, keys: Keys, wait_until: WaitUntil
) -> None:
    announcement = Announcement(own_etcd, keys, MEMBER, own_story.on_ready, ttl_s=2.0)
    announcement.start()
    await wait_until(lambda: own_story.member() == MEMBER and "ready" in own_story.lines)
    own_story.lines.clear()
    own_server.freeze()
    await wait_until(lambda: own_story.lines == ["not ready"])
    own_server.thaw()
    await wait_until(lambda: own_story.member() not in (None, MEMBER) and "ready" in own_story.lines)
    assert own_story.lines[0] == "not ready"
    await announcement.withdraw()
    await wait_until(lambda: own_story.member() is None)


async def test_it_announces_when_etcd_comes(
    etcd_binary: Path, tmp_path: Path, keys: Keys, wait_until: WaitUntil
) -> None:
    server = EtcdServer(tmp_path / "etcd", binary=etcd_binary, client_port=free_port())
    etcd, story = Etcd([server.endpoint], timeout_s=0.5, retry_s=0.5), Story()
    announcement = Announcement(etcd, keys, MEMBER, story.on_ready)
    try:
        announcement.start()
        waiting = asyncio.create_task(announcement.wait_announced())
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
        assert story.lines == []
        server.spawn()
        await asyncio.to_thread(server.wait_healthy)
        async with asyncio.timeout(30):
            await waiting
        assert story.lines == ["ready"]
        async with aclosing(Etcd([server.endpoint])) as patient:
            assert (await patient.get(keys.member("m1")))[1] is not None
    finally:
        await announcement.aclose()
        await etcd.aclose()
        server.terminate()


async def test_a_deleted_announcement_is_written_again(
    etcd: Etcd, keys: Keys, story: Story, wait_until: WaitUntil
) -> None:
    announcement = Announcement(etcd, keys, MEMBER, story.on_ready, ttl_s=2.0)
    announcement.start()
    await wait_until(lambda: story.member() == MEMBER)
    await etcd.delete(keys.member("m1"))
    await wait_until(lambda: story.member() is None)
    await wait_until(lambda: story.member() == MEMBER)
    await announcement.aclose()


async def test_a_withdrawal_with_etcd_dead_ends_all_the_same(
    own_server: EtcdServer, keys: Keys, wait_until: WaitUntil
) -> None:
    etcd, story = Etcd([own_server.endpoint], timeout_s=0.5, retry_s=0.5), Story()
    announcement = Announcement(etcd, keys, MEMBER, story.on_ready)
    announcement.start()
    await announcement.wait_announced()
    own_server.kill()
    async with asyncio.timeout(30):
        await announcement.withdraw()
    await etcd.aclose()


async def test_garbage_under_a_member_is_no_member(
    etcd: Etcd, keys: Keys, story: Story, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    await etcd.put(keys.member("garbage"), b"{")
    await etcd.put(keys.member("m1"), encode(MEMBER))
    await wait_until(lambda: story.member() == MEMBER)
    assert story.view is not None
    assert set(story.view.members) == {"m1"}
    assert "holds no member" in caplog.text
