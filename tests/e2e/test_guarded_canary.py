"""The guard with real scorers: a canary that fails or scores otherwise is taken back while no caller fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer
from registry.layout import artifact_path
from registry.manifest import RolloutSpec
from registry.model import ModelRef
from registry.rollout.guard import Guard, Judgement
from tests.e2e.cluster import Cluster
from tests.e2e.retraining import Registry, SteadyLoad, publish_versions, registry_of, started


@pytest.fixture(scope="module")
def cluster(etcd_server: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    name = f"guarded-{uuid.uuid4().hex[:8]}"
    cluster = started(tmp_path_factory.mktemp(name), etcd_server, name, scorers=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def ref() -> ModelRef:
    return ModelRef("acme", f"m-{uuid.uuid4().hex[:8]}")


@asynccontextmanager
async def guarded(registry: Registry) -> AsyncIterator[Guard]:
    guard = Guard(registry.ledger, registry.moves(), registry.calls, interval_s=0.1)
    running = asyncio.create_task(guard.run())
    try:
        yield guard
    finally:
        running.cancel()
        await asyncio.wait({running})


async def judged(guard: Guard, ref: ModelRef, verdict: str) -> Judgement:
    """Wait until the guard says something that begins so."""
    until = asyncio.get_running_loop().time() + 30
    while (said := guard.last(ref, "live")) is None or not said.verdict.startswith(verdict):
        assert asyncio.get_running_loop().time() < until, f"waited in vain for {verdict!r}; last: {said}"
        await asyncio.sleep(0.01)
    return said


async def test_a_canary_that_scores_otherwise_is_taken_back(cluster: Cluster, ref: ModelRef, tmp_path: Path) -> None:
    async with registry_of(cluster) as registry, cluster.client() as client, guarded(registry) as guard:
        expected = await publish_versions(registry, ref, 2, tmp_path)
        async with SteadyLoad(client, [ref], 200) as load:
            await registry.moves().begin(ref, "live", RolloutSpec(id=ref.model, canary="2", percent=50))
            said = await judged(guard, ref, "roll back: the canary's scores drift")
            assert said.ended
            async with asyncio.timeout(30):
                while {answer.scores.version for answer in load.answers[-50:]} != {"1"}:
                    await load.more(1)
    assert not load.failures
    assert {answer.scores.version for answer in load.answers} == {"1", "2"}
    assert all(answer.scores.values.tobytes() == expected[answer.scores.version] for answer in load.answers)
    assert said.tally.stable.requests >= 200
    assert said.tally.canary.requests >= 200


async def test_a_canary_that_scores_the_same_stays(cluster: Cluster, ref: ModelRef, tmp_path: Path) -> None:
    async with registry_of(cluster) as registry, cluster.client() as client, guarded(registry) as guard:
        await publish_versions(registry, ref, 1, tmp_path)
        await publish_versions(registry, ref, 1, tmp_path, first=2, trained_as=1)
        async with SteadyLoad(client, [ref], 200) as load:
            await registry.moves().begin(ref, "live", RolloutSpec(id=ref.model, canary="2", percent=50))
            await judged(guard, ref, "healthy")
            await load.more(100)
            said = await judged(guard, ref, "healthy")
    assert not load.failures
    assert not said.ended
    record = await registry.ledger.library.newest_aliases(ref)
    assert record is not None
    assert record.rollouts["live"].canary == "2"


async def test_a_canary_that_cannot_be_loaded_is_taken_back(cluster: Cluster, ref: ModelRef, tmp_path: Path) -> None:
    async with registry_of(cluster) as registry, cluster.client() as client, guarded(registry) as guard:
        await publish_versions(registry, ref, 1, tmp_path)
        await publish_versions(registry, ref, 1, tmp_path, first=2, trained_as=77)  # no scorer has its bytes
        broken = await registry.ledger.library.read_manifest(ref, "2")
        await registry.ledger.library.store.delete(artifact_path(ref.tenant, broken.artifact))
        unprepared = registry.moves(prepared=False)
        async with SteadyLoad(client, [ref], 200) as load:
            await unprepared.begin(ref, "live", RolloutSpec(id=ref.model, canary="2", percent=20))
            said = await judged(guard, ref, "roll back: all")
            assert said.ended
            await load.more(50)
    assert not load.failures
    assert {answer.scores.version for answer in load.answers} == {"1"}
