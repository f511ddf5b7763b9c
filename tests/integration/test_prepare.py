"""Preparation against real servers, and against ones that are gone, silent, or die of it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from ops.etcd_server import free_port
from ops.process import guarded
from registry.alias_moves import AliasMoves
from registry.errors import DrainingError, NotPreparedError, OverloadedError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import Member, ModelRef
from registry.rollout.prepare import Preparation, Preparer
from registry.rollout.scorers import GET_ROLLOUT_STATS, ScorerCalls, Unreachable
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2 as pb
from tests.e2e.fixtures import make_tls
from tests.integration.conftest import WaitUntil
from tests.integration.publishing import index_entry, model_file, open_ledger, publisher
from tests.integration.residency import Scorer, announce, serving, version

REF = ModelRef("acme", "fraud")
OLD, NEW = version("a"), version("b")


class Fleet:
    """Starts scorers and announces them."""

    def __init__(self, etcd: Etcd, keys: Keys, stack: AsyncExitStack) -> None:
        self._etcd, self._keys, self._stack = etcd, keys, stack
        self._count = 0

    async def add(self, *resident: str) -> Scorer:
        self._count += 1
        scorer = await self._stack.enter_async_context(serving(Scorer(f"s{self._count}")))
        scorer.resident = set(resident)
        await announce(self._etcd, self._keys, scorer.member)
        return scorer


@pytest.fixture
async def fleet(etcd: Etcd, keys: Keys) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet(etcd, keys, stack)


@pytest.fixture
async def calls(etcd: Etcd, keys: Keys) -> AsyncIterator[ScorerCalls]:
    calls = ScorerCalls(etcd, keys)
    yield calls
    await calls.aclose()


async def test_without_members_there_is_nothing_to_do(calls: ScorerCalls) -> None:
    await Preparer(calls).prepare(REF, [OLD], [NEW])


async def test_the_new_is_loaded_where_the_old_is(fleet: Fleet, calls: ScorerCalls) -> None:
    warm, cold, other = await fleet.add(OLD.package), await fleet.add(), await fleet.add(OLD.package, "package-z")
    await Preparer(calls).prepare(REF, [OLD], [NEW])
    assert warm.resident == {OLD.package, NEW.package}
    assert cold.resident == set()
    assert other.resident == {OLD.package, NEW.package, "package-z"}
    (asked,) = warm.asked[0].preparations
    assert list(asked.where_resident) == [OLD.package]
    assert asked.load[0] == pb.LoadableVersion(
        version="b",
        package=NEW.package,
        tenant="acme",
        artifact="b" * 64,
        schema="0" * 64,
        runtime="lightgbm",
        artifact_bytes=1,
        resident_bytes=1,
        transforms="1" * 64,
        model="fraud",
    )


async def test_nothing_moves_when_a_load_fails(
    fleet: Fleet, calls: ScorerCalls, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    store = open_store(f"file://{tmp_path}/store")
    moves = AliasMoves(open_ledger(store, etcd, keys), Preparer(calls).prepare)
    await publisher(store, etcd, keys).publish(model_file(tmp_path, "a"), REF)
    await publisher(store, etcd, keys).publish(model_file(tmp_path, "b"), REF, aliases=())
    before = await index_entry(etcd, keys, REF)
    assert before is not None
    old = before.aliases["live"]
    new = (await open_ledger(store, etcd, keys).library.read_manifest(REF, "2")).to_version()
    await fleet.add(old.package)
    weak = await fleet.add(old.package)
    weak.broken = {new.package}
    with pytest.raises(NotPreparedError, match=rf"member {weak.id} at .*: version 2 is damaged; nothing was moved"):
        await moves.point(REF, "live", "2")
    assert await index_entry(etcd, keys, REF) == before

    weak.broken = set()
    await moves.point(REF, "live", "2")
    after = await index_entry(etcd, keys, REF)
    assert after is not None
    assert after.aliases["live"] == new
    assert new.package in weak.resident


async def test_who_refuses_connections_is_dead_and_skipped(
    fleet: Fleet, calls: ScorerCalls, etcd: Etcd, keys: Keys
) -> None:
    alive = await fleet.add(OLD.package)
    dead = Member("dead", f"127.0.0.1:{free_port()}", "host", "zone", "pool", 1, "1")
    await announce(etcd, keys, dead)
    await Preparer(calls).prepare(REF, [OLD], [NEW])
    assert NEW.package in alive.resident


async def test_who_is_silent_prevents_the_move(fleet: Fleet, calls: ScorerCalls) -> None:
    silent = await fleet.add(OLD.package)
    over = asyncio.Event()

    async def hang(_request: pb.PrepareRequest) -> None:
        await over.wait()

    silent.on_prepare = hang
    with pytest.raises(NotPreparedError, match=r"member s1 at .* didn't load it within 0.2 s; `--unprepared`"):
        await Preparer(calls, timeout_s=0.2).prepare(REF, [OLD], [NEW])
    over.set()


async def test_who_is_silent_and_no_longer_announced_is_skipped(
    fleet: Fleet, calls: ScorerCalls, etcd: Etcd, keys: Keys
) -> None:
    silent, other = await fleet.add(OLD.package), await fleet.add(OLD.package)
    over = asyncio.Event()

    async def lose_the_lease(_request: pb.PrepareRequest) -> None:
        await etcd.delete(keys.member(silent.id))
        await over.wait()

    silent.on_prepare = lose_the_lease
    await Preparer(calls, timeout_s=1.0).prepare(REF, [OLD], [NEW])
    assert NEW.package in other.resident
    over.set()


async def test_who_dies_of_it_prevents_the_move(calls: ScorerCalls, etcd: Etcd, keys: Keys) -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'protos'}"}
    argv = guarded([sys.executable, str(root / "tests/integration/residency.py")])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as process:  # noqa: ASYNC220 - the kernel ends it with us
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        await announce(etcd, keys, Member("dying", f"127.0.0.1:{port}", "host", "zone", "pool", 1, "1"))
        with pytest.raises(NotPreparedError, match=r"dying at .* failed to load it: the call ended with UNAVAILABLE"):
            await Preparer(calls).prepare(REF, [OLD], [NEW])
        assert await asyncio.to_thread(process.wait) == -9


async def test_a_model_that_gets_resident_elsewhere_meanwhile_is_prepared_there_too(
    fleet: Fleet, calls: ScorerCalls
) -> None:
    first, second = await fleet.add(OLD.package), await fleet.add()
    asked_second = asyncio.Event()

    async def wait_for_second(_request: pb.PrepareRequest) -> None:
        await asked_second.wait()
        second.resident.add(OLD.package)

    async def tell(_request: pb.PrepareRequest) -> None:
        asyncio.get_running_loop().call_soon(asked_second.set)

    first.on_prepare, second.on_prepare = wait_for_second, tell
    await Preparer(calls).prepare(REF, [OLD], [NEW])
    assert second.resident == {OLD.package, NEW.package}
    assert len(first.asked) == 3  # the last round found nothing new


async def test_many_are_asked_in_one_request_and_fail_alone(fleet: Fleet, calls: ScorerCalls) -> None:
    scorer = await fleet.add("package-a", "package-c")
    scorer.broken = {"package-d"}
    names = [("x", "a", "b"), ("y", "c", "d"), ("z", "e", "f")]
    preparations = [Preparation(ModelRef("acme", m), [version(old)], [version(new)]) for m, old, new in names]
    failures = await Preparer(calls).prepare_many(preparations)
    text = (
        f"model acme/y: member s1 at {scorer.member.address} couldn't load it: version d is damaged; nothing was moved"
    )
    assert failures == {ModelRef("acme", "y"): text}
    assert scorer.resident == {"package-a", "package-b", "package-c"}
    assert [len(request.preparations) for request in scorer.asked] == [3, 3]


async def test_a_server_that_answers_nonsense_prevents_the_move(fleet: Fleet, calls: ScorerCalls) -> None:
    scorer = await fleet.add(OLD.package)

    async def answer_less(request: pb.PrepareRequest) -> None:
        request.ClearField("preparations")

    scorer.on_prepare = answer_less
    with pytest.raises(NotPreparedError, match="answered for 0 of 1 models"):
        await Preparer(calls).prepare(REF, [OLD], [NEW])


async def test_a_scorer_that_came_back_is_reached_at_once(calls: ScorerCalls, etcd: Etcd, keys: Keys) -> None:
    scorer = Scorer("s1")
    async with serving(scorer):
        await announce(etcd, keys, scorer.member)
        await Preparer(calls).prepare(REF, [OLD], [NEW])
    request = pb.GetRolloutStatsRequest()
    assert await calls.ask(GET_ROLLOUT_STATS, request, 5.0) == [Unreachable(scorer.member, refused=True)]
    async with serving(scorer):
        scorer.incarnation, scorer.resident = "2", {OLD.package}
        await announce(etcd, keys, scorer.member)
        await Preparer(calls).prepare(REF, [OLD], [NEW])
        assert NEW.package in scorer.resident
        assert [process[1] for process in calls._lines] == ["2"]


async def test_who_shuts_down_is_skipped(fleet: Fleet, calls: ScorerCalls) -> None:
    scorer = await fleet.add(OLD.package)
    scorer.refusal = DrainingError("scorer s1 is shutting down")
    await Preparer(calls).prepare(REF, [OLD], [NEW])
    scorer.refusal = OverloadedError("the memory is full")
    with pytest.raises(NotPreparedError, match=r"member s1 at .* failed to load it: the memory is full; nothing"):
        await Preparer(calls).prepare(REF, [OLD], [NEW])


async def test_who_lost_its_lease_for_a_moment_still_counts(
    fleet: Fleet, calls: ScorerCalls, etcd: Etcd, keys: Keys
) -> None:
    scorer = await fleet.add(OLD.package)
    over = asyncio.Event()

    async def announce_anew(_request: pb.PrepareRequest) -> None:
        scorer.incarnation = "2"
        await announce(etcd, keys, scorer.member)
        await over.wait()

    scorer.on_prepare = announce_anew
    with pytest.raises(NotPreparedError, match="didn't load it within"):
        await Preparer(calls, timeout_s=0.5).prepare(REF, [OLD], [NEW])
    over.set()


async def test_who_accepts_connections_and_says_nothing(calls: ScorerCalls, etcd: Etcd, keys: Keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        member = Member("mute", f"127.0.0.1:{mute.getsockname()[1]}", "host", "zone", "pool", 1, "1")
        await announce(etcd, keys, member)
        with pytest.raises(NotPreparedError, match=r"member mute at .* didn't load it within 0.2 s"):
            await Preparer(calls, timeout_s=0.2).prepare(REF, [OLD], [NEW])
        waiting = asyncio.create_task(Preparer(calls).prepare(REF, [OLD], [NEW]))
        await asyncio.sleep(0.05)  # however far it is: closing must end it
        waiting.cancel()
        await asyncio.wait({waiting})
        await calls.aclose()


async def test_a_damaged_announcement_is_no_member(fleet: Fleet, calls: ScorerCalls, etcd: Etcd, keys: Keys) -> None:
    scorer = await fleet.add()
    await etcd.put(keys.members_prefix + b"x", b"{")
    assert await calls.members() == [scorer.member]


async def test_scorers_are_asked_over_tls(etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    files = make_tls(tmp_path)
    assert files.cert is not None
    assert files.key is not None
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)
    calls = ScorerCalls(etcd, keys, tls=files)
    async with serving(Scorer("s1"), credentials) as scorer:
        scorer.resident = {OLD.package}
        await announce(etcd, keys, scorer.member)
        await Preparer(calls).prepare(REF, [OLD], [NEW])
        assert NEW.package in scorer.resident
        await calls.aclose()


async def test_cancelling_leaves_nothing_behind(fleet: Fleet, calls: ScorerCalls, wait_until: WaitUntil) -> None:
    scorer = await fleet.add(OLD.package)
    over = asyncio.Event()

    async def hang(_request: pb.PrepareRequest) -> None:
        await over.wait()

    scorer.on_prepare = hang
    preparing = asyncio.create_task(Preparer(calls).prepare(REF, [OLD], [NEW]))
    await wait_until(lambda: bool(scorer.asked))
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    over.set()
    assert [line.users for line in calls._lines.values()] == [0]
