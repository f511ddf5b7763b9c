"""The guard against real etcd, real records and servers that say what a test wants them to have seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.errors import EtcdUnavailableError
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.ledger import Ledger
from registry.library import index_of
from registry.manifest import RolloutSpec
from registry.model import ModelRef
from registry.rollout.guard import Guard
from registry.rollout.scorers import ScorerCalls
from registry.rollout.stats import read_stats
from registry.rollout.tally import RolloutTally
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2 as pb
from tests.integration.conftest import Crash, WaitUntil
from tests.integration.paper_models import publish
from tests.integration.publishing import index_entry, open_ledger
from tests.integration.residency import Scorer, announce, serving

REF = ModelRef("acme", "fraud")
_HARM = (pb.Arm(requests=900, errors=0), pb.Arm(requests=100, errors=30))
_SCORES = {3: 300, 4: 400, 5: 300}
_PEACE = (pb.Arm(requests=1000, buckets=_SCORES), pb.Arm(requests=1000, buckets=_SCORES))


@pytest.fixture
def ledger(etcd: Etcd, keys: Keys, tmp_path: Path) -> Ledger:
    return open_ledger(open_store(f"file://{tmp_path}/store"), etcd, keys)


@pytest.fixture
async def calls(etcd: Etcd, keys: Keys) -> AsyncIterator[ScorerCalls]:
    calls = ScorerCalls(etcd, keys)
    yield calls
    await calls.aclose()


@pytest.fixture
async def scorers(etcd: Etcd, keys: Keys) -> AsyncIterator[list[Scorer]]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(serving(Scorer(f"s{number}"))) for number in range(2)]
        for scorer in made:
            await announce(etcd, keys, scorer.member)
        yield made


@pytest.fixture
async def moves(ledger: Ledger) -> AliasMoves:
    """With a model that has two versions."""
    for version in ("1", "2"):
        await publish(ledger, REF, version, aliases=("live",) if version == "1" else ())
    return AliasMoves(ledger)


def saw(scorer: Scorer, rollout_id: str, arms: tuple[pb.Arm, pb.Arm]) -> None:
    scorer.stats[rollout_id] = pb.RolloutStats(rollout_id=rollout_id, stable=arms[0], canary=arms[1])


@asynccontextmanager
async def guarding(guard: Guard, known: int, wait_until: WaitUntil) -> AsyncIterator[None]:
    """The guard's watch alone, so that the test decides when it looks."""
    following = asyncio.create_task(guard.watch.follow())
    try:
        await wait_until(lambda: len(guard.watch.open) == known)
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_a_canary_that_fails_is_taken_back(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    guard = Guard(ledger, moves, calls)
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    async with guarding(guard, 1, wait_until):
        await guard.look()
        waits = guard.last(REF, "live")
        assert waits is not None
        assert (waits.verdict, waits.ended) == ("wait: 0 of 200 requests", False)
        for scorer in scorers:
            saw(scorer, "r1", _HARM)
        await guard.look()
        said = guard.last(REF, "live")
        assert said is not None
        assert said.verdict.startswith("roll back: 60 of 200 requests to the canary failed, 0 of 1800")
        assert (said.ended, said.rollout_id, said.tally.canary.errors) == (True, "r1", 60)
        await wait_until(lambda: not guard.watch.open)
        await guard.look()
        assert guard.last(REF, "live") == said
    record = await index_entry(ledger.etcd, ledger.keys, REF)
    assert record is not None
    assert (record.aliases["live"].version, record.aliases["live"].rollout) == ("1", None)


async def test_what_is_healthy_or_not_guarded_stays(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    other = ModelRef("acme", "other")
    for version in ("1", "2"):
        await publish(ledger, other, version, aliases=("live",) if version == "1" else ())
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    await moves.begin(other, "live", RolloutSpec(id="r2", canary="2", percent=10, guarded=False))
    saw(scorers[0], "r1", _PEACE)
    saw(scorers[0], "r2", _HARM)
    guard = Guard(ledger, moves, calls)
    async with guarding(guard, 2, wait_until):
        await guard.look()
        said = guard.last(REF, "live")
        assert said is not None
        assert said.verdict == "healthy: drift 0.000"
        assert guard.last(other, "live") is None
    for ref in (REF, other):
        record = await ledger.library.newest_aliases(ref)
        assert record is not None
        assert record.rollouts


async def test_a_shadow_alone_is_never_taken_back(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    await moves.begin(REF, "live", RolloutSpec(id="r1", shadow="2"))
    scorers[0].stats["r1"] = pb.RolloutStats(rollout_id="r1", shadow=pb.Shadow(requests=1000, errors=1000))
    guard = Guard(ledger, moves, calls)
    async with guarding(guard, 1, wait_until):
        await guard.look()
        assert guard.last(REF, "live") is None
        assert len(guard.watch.open) == 1


async def test_two_guards_and_an_operator_at_once(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    saw(scorers[0], "r1", _HARM)
    guards = [Guard(ledger, moves, calls, interval_s=0.01) for _ in range(2)]
    async with guarding(guards[0], 1, wait_until), guarding(guards[1], 1, wait_until):
        # An operator replaces the canary that both guards are about to end: the new one must not be ended by them.
        await asyncio.gather(
            *(guard.look() for guard in guards),
            moves.begin(REF, "live", RolloutSpec(id="r2", canary="2", percent=1)),
        )
        await asyncio.gather(*(guard.look() for guard in guards))
    record = await ledger.library.newest_aliases(REF)
    assert record is not None
    assert record.rollouts["live"].id == "r2"


async def test_limits_that_change_hold_at_the_next_look(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    lenient = RolloutSpec(id="r1", canary="2", percent=10, max_error_ratio=0.9, min_requests=100)
    await moves.begin(REF, "live", lenient)
    saw(scorers[0], "r1", (_PEACE[0], pb.Arm(requests=1000, errors=300, buckets=_SCORES)))
    guard = Guard(ledger, moves, calls)
    async with guarding(guard, 1, wait_until):
        await guard.look()
        said = guard.last(REF, "live")
        assert said is not None
        assert said.verdict.startswith("healthy")
        await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=20))
        await wait_until(lambda: guard.watch.open[0].rollout.percent == 20)
        await guard.look()
        said = guard.last(REF, "live")
        assert said is not None
        assert said.ended


async def test_run_looks_by_itself(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, scorers: list[Scorer], wait_until: WaitUntil
) -> None:
    guard = Guard(ledger, moves, calls, interval_s=0.01)
    running = asyncio.create_task(guard.run())
    saw(scorers[1], "r1", (pb.Arm(requests=180), pb.Arm(requests=20, errors=20)))
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    await wait_until(lambda: (said := guard.last(REF, "live")) is not None and said.ended)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_without_etcd_the_guard_goes_on_later(
    own_server: EtcdServer, crash: Crash, keys: Keys, tmp_path: Path, wait_until: WaitUntil
) -> None:
    etcd, patient = Etcd([own_server.endpoint], timeout_s=0.5, retry_s=0.5), Etcd([own_server.endpoint], retry_s=30.0)
    store = open_store(f"file://{tmp_path}/store")
    ledger, hasty = open_ledger(store, patient, keys), open_ledger(store, etcd, keys)
    moves = AliasMoves(ledger)
    for version in ("1", "2"):
        await publish(ledger, REF, version, aliases=("live",) if version == "1" else ())
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    calls = ScorerCalls(etcd, keys)
    guard = Guard(hasty, AliasMoves(hasty), calls, interval_s=0.01)
    async with serving(Scorer("s1")) as scorer:
        saw(scorer, "r1", _HARM)
        running = asyncio.create_task(guard.run())
        await wait_until(lambda: guard.last(REF, "live") is not None)
        await crash(own_server)
        with pytest.raises(EtcdUnavailableError):
            await guard.look()
        own_server.restart()
        saw(scorer, "r1", (pb.Arm(requests=1000), pb.Arm(requests=500, errors=500)))
        await announce(patient, keys, scorer.member)
        await wait_until(lambda: (said := guard.last(REF, "live")) is not None and said.ended)
        running.cancel()
        await asyncio.wait({running})
    await calls.aclose()
    await etcd.aclose()
    await patient.aclose()


async def test_only_models_with_a_rollout_are_held(
    ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, wait_until: WaitUntil
) -> None:
    record = await ledger.library.newest_aliases(REF)
    assert record is not None
    plain = encode(index_of(record))
    await asyncio.gather(*(ledger.etcd.put(ledger.keys.model(ModelRef("t", f"m{n:05}")), plain) for n in range(1500)))
    await moves.begin(REF, "live", RolloutSpec(id="r1", canary="2", percent=10))
    begun = await ledger.library.newest_aliases(REF)
    assert begun is not None
    last = ledger.keys.model(ModelRef("z", "z"))
    await ledger.etcd.put(last, encode(index_of(begun)))
    guard = Guard(ledger, moves, calls)
    async with guarding(guard, 2, wait_until):
        assert [rollout.ref for rollout in guard.watch.open] == [REF, ModelRef("z", "z")]
        await ledger.etcd.put(ledger.keys.model(ModelRef("t", "m00007")), encode(index_of(begun)))
        await wait_until(lambda: len(guard.watch.open) == 3)
        await ledger.etcd.put(last, plain)
        await ledger.etcd.delete(ledger.keys.model(REF))
        await wait_until(lambda: [rollout.ref for rollout in guard.watch.open] == [ModelRef("t", "m00007")])
        await ledger.etcd.put(last, b'{"rollout": damaged')
        await ledger.etcd.put(ledger.keys.model(REF), encode(index_of(begun)))
        await wait_until(lambda: [rollout.ref for rollout in guard.watch.open] == [REF, ModelRef("t", "m00007")])


async def test_stats_are_summed_and_who_is_gone_is_left_out(
    calls: ScorerCalls, scorers: list[Scorer], etcd: Etcd, keys: Keys
) -> None:
    await announce(etcd, keys, Scorer("gone").member)
    for scorer in scorers:
        saw(scorer, "r1", (pb.Arm(requests=3, buckets={-1: 2, 4: 1}), pb.Arm(requests=2, errors=1)))
    stats = await read_stats(calls, ["r1", "unknown"])
    assert stats["r1"].stable == (6, 0, 0.0, 0, {-1: 4, 4: 2})
    assert stats["r1"].canary[:2] == (4, 2)
    assert stats["unknown"] == RolloutTally()
