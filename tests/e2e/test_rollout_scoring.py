"""Canary, shadow and shared models as callers of a real cluster see them: a router, two scorers, real models."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grpc
import lightgbm
import msgspec
import numpy as np
import pytest

from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.etcd import Etcd
from registry.keys import Keys
from registry.layout import artifact_path
from registry.ledger import Ledger
from registry.library import Library
from registry.manifest import Manifest, RolloutSpec
from registry.model import ApplicationRecord, ModelRef
from registry.offer import Admitted, Offer
from registry.publish import Publisher
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreBatchResponse, ScoreRequest, ScoreResponse
from scorer.engine import engine_for
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.raw import PATIENCE_S, unary_of

ROWS = np.random.default_rng(1).normal(size=(200, 3))
CUSTOMERS = [f"customer-{number}" for number in range(400)]
PERCENT = 30.0


@cache
def booster(number: int) -> lightgbm.Booster:
    """A real model that says about `number` times the first feature."""
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    return lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] * number), 3)


@cache
def expected(number: int) -> bytes:
    return np.asarray(booster(number).predict(ROWS[:2])).tobytes()


async def known_admit(offer: Offer) -> Admitted:
    return Admitted(offer.data, engine_for(offer.runtime).describe(offer.data), 200_000, {"1": 2.0, "64": 20.0})


class Answer(NamedTuple):
    version: str
    values: bytes


class Desk:
    """Publishes for the cluster, moves its aliases, and asks its router. `ref`: a model that each test has new."""

    def __init__(self, cluster: Cluster, ledger: Ledger, folder: Path) -> None:
        self.cluster, self.ledger = cluster, ledger
        self.moves = AliasMoves(ledger)
        self._publisher = Publisher(ledger, self.moves, known_admit)
        self._folder = folder
        self._channel = cluster.channel()
        self._score = unary_of(self._channel, "Score")
        self.ref = ModelRef("acme", f"m{uuid.uuid4().hex}")

    async def publish(self, number: int, ref: ModelRef | None = None, aliases: Sequence[str] = ("live",)) -> Manifest:
        path = self._folder / f"{uuid.uuid4().hex}.txt"
        path.write_text(booster(number).model_to_string())
        return await self._publisher.publish(path, ref or self.ref, aliases=aliases)

    async def ask(self, ref: ModelRef | None = None, *, key: str = "") -> Answer:
        payload = await self._score(self.request(ref, key=key).SerializeToString(), timeout=PATIENCE_S)
        response = ScoreResponse.FromString(payload)
        return Answer(response.model_version, np.array(response.outputs[0].regression.values).tobytes())

    def request(self, ref: ModelRef | None = None, *, key: str = "") -> ScoreRequest:
        tenant, model = ref or self.ref
        return ScoreRequest(tenant=tenant, model=model, row_count=2, dense_double=ROWS[:2].ravel(), entity_key=key)

    async def ask_batch(self, keys: Sequence[str]) -> list[str]:
        """The versions that answered."""
        batch = ScoreBatchRequest(items=[self.request(key=key) for key in keys])
        payload = await unary_of(self._channel, "ScoreBatch")(batch.SerializeToString(), timeout=PATIENCE_S)
        results = ScoreBatchResponse.FromString(payload).results
        assert {result.code for result in results} == {0}
        return [result.response.model_version for result in results]

    async def ask_each(self, keys: Sequence[str]) -> dict[str, Answer]:
        return {key: await self.ask(key=key) for key in keys}

    async def begin(self, rollout: str, **spec: object) -> None:
        await self.moves.begin(self.ref, "live", msgspec.convert({"id": rollout, **spec}, RolloutSpec))

    async def warm(self, *versions: str) -> None:
        """Have them in the memory of every scorer."""
        for scorer in self.cluster.scorers:
            async with self.cluster.channel(scorer) as channel:
                for version in versions:
                    request = self.request()
                    request.version = version
                    await unary_of(channel, "Score")(request.SerializeToString(), timeout=PATIENCE_S)

    async def stats(self, rollout: str) -> list[pb.RolloutStats]:
        """What each scorer saw."""
        found: list[pb.RolloutStats] = []
        request = pb.GetRolloutStatsRequest(rollout_ids=[rollout]).SerializeToString()
        for scorer in self.cluster.scorers:
            async with self.cluster.channel(scorer) as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                    "/scoremesh.scorer.v1.ResidencyService/GetRolloutStats"
                )
                found += pb.GetRolloutStatsResponse.FromString(await call(request, timeout=PATIENCE_S)).stats
        return found

    async def aclose(self) -> None:
        await self._channel.close()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def own_cluster(
    etcd_server: EtcdServer, store: GatedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("rollouts")
    made = Cluster(directory, etcd_server, store.url, name="rollouts", front="http2")
    try:
        yield made.start(scorers=2)
    finally:
        made.stop()


@asynccontextmanager
async def desk_of(cluster: Cluster, store: GatedStore, folder: Path) -> AsyncIterator[Desk]:
    etcd = Etcd([cluster.etcd.endpoint])
    desk = Desk(cluster, Ledger(Library(open_store(f"file://{store.directory}")), etcd, Keys(cluster.name)), folder)
    try:
        yield desk
    finally:
        await desk.aclose()
        await etcd.aclose()


@pytest.fixture
async def desk(own_cluster: Cluster, store: GatedStore, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(own_cluster, store, tmp_path) as desk:
        yield desk


def canaries(answers: Mapping[str, Answer]) -> set[str]:
    """The keys that version 2 answered; every answer is that version's own."""
    for answer in answers.values():
        assert answer.values == expected(int(answer.version))
    return {key for key, answer in answers.items() if answer.version == "2"}


async def test_a_canary_gets_its_share_and_each_customer_one_version(desk: Desk) -> None:
    await desk.publish(1)
    await desk.publish(2, aliases=())
    await desk.ask()
    rollout = uuid.uuid4().hex
    await desk.begin(rollout, canary="2", percent=PERCENT)

    async def begun() -> bool:
        return bool(canaries(await desk.ask_each(CUSTOMERS[:20])))

    await eventually(begun)
    first = canaries(await desk.ask_each(CUSTOMERS))
    deviation = (PERCENT * (100 - PERCENT) / len(CUSTOMERS)) ** 0.5
    assert abs(100 * len(first) / len(CUSTOMERS) - PERCENT) < 4 * deviation
    assert canaries(await desk.ask_each(CUSTOMERS)) == first
    batch = await desk.ask_batch(CUSTOMERS)
    assert {key for key, version in zip(CUSTOMERS, batch, strict=True) if version == "2"} == first

    await desk.begin(rollout, canary="2", percent=2 * PERCENT)

    async def raised() -> bool:
        return bool(canaries(await desk.ask_each(CUSTOMERS)) - first)

    await eventually(raised)
    more = canaries(await desk.ask_each(CUSTOMERS))
    assert first < more
    assert abs(100 * len(more) / len(CUSTOMERS) - 2 * PERCENT) < 4 * deviation * 1.07

    await desk.moves.end(desk.ref, "live", promote=False, rollout_id=rollout)

    async def ended() -> bool:
        return not canaries(await desk.ask_each(CUSTOMERS[:20]))

    await eventually(ended)
    assert not canaries(await desk.ask_each(CUSTOMERS))


async def test_what_was_seen_is_told_by_the_scorers(desk: Desk) -> None:
    await desk.publish(1)
    await desk.publish(2, aliases=())
    rollout = uuid.uuid4().hex
    await desk.begin(rollout, canary="2", percent=PERCENT)
    await desk.warm("1", "2")
    versions = Counter([(await desk.ask()).version for _ in range(200)])
    assert abs(versions["2"] - 60) <= 6
    seen = await desk.stats(rollout)
    assert sum(each.stable.requests for each in seen) == versions["1"]
    assert sum(each.canary.requests for each in seen) == versions["2"]
    assert sum(each.canary.errors + each.stable.errors for each in seen) == 0
    for number, arms in ((1, [each.stable for each in seen]), (2, [each.canary for each in seen])):
        mean = sum(arm.score_sum for arm in arms) / sum(arm.score_count for arm in arms)
        assert mean == pytest.approx(np.frombuffer(expected(number)).mean())


async def test_a_shadow_is_compared_and_answers_nobody(desk: Desk) -> None:
    await desk.publish(1)
    await desk.publish(2, aliases=())
    await desk.ask()
    rollout = uuid.uuid4().hex
    await desk.begin(rollout, shadow="2")

    async def compared() -> bool:
        assert not canaries(await desk.ask_each(CUSTOMERS[:20]))
        return sum(each.shadow.requests for each in await desk.stats(rollout)) > 20

    await eventually(compared)
    shadows = [each.shadow for each in await desk.stats(rollout)]
    differences = np.abs(np.frombuffer(expected(1)) - np.frombuffer(expected(2)))
    assert max(shadow.abs_difference_max for shadow in shadows) == pytest.approx(differences.max())
    total, count = (
        sum(values) for values in zip(*((s.abs_difference_sum, s.score_count) for s in shadows), strict=True)
    )
    assert total / count == pytest.approx(differences.mean())
    assert sum(shadow.errors for shadow in shadows) == 0


async def test_a_broken_canary_fails_no_caller(desk: Desk, store: GatedStore) -> None:
    await desk.publish(1)
    broken = await desk.publish(7, aliases=())  # bytes that no other test has brought to a scorer
    await desk.ask()
    rollout = uuid.uuid4().hex
    with store.answering(artifact_path(desk.ref.tenant, broken.artifact), None):
        await desk.begin(rollout, canary=broken.version, percent=50.0)

        async def failed() -> bool:
            assert not canaries(await desk.ask_each(CUSTOMERS[:20]))
            return sum(each.canary.errors for each in await desk.stats(rollout)) >= 20

        await eventually(failed)
    seen = await desk.stats(rollout)
    assert sum(each.canary.errors for each in seen) == sum(each.canary.requests for each in seen)
    assert sum(each.stable.errors for each in seen) == 0


async def test_a_tenant_without_a_model_scores_with_the_shared_one(desk: Desk) -> None:
    application = f"lead-{uuid.uuid4().hex}"
    shared, mine = ModelRef("vendor", f"shared-{application}"), ModelRef("umbrella", application)
    await desk.publish(1, shared)

    def share(record: ApplicationRecord) -> ApplicationRecord:
        return msgspec.structs.replace(record, shared=shared)

    await desk.ledger.change_application(application, share)
    for tenant in ("umbrella", "initech", "hooli"):
        assert await desk.ask(ModelRef(tenant, application)) == Answer("1", expected(1))
    await desk.publish(2, shared)

    async def moved() -> bool:
        return (await desk.ask(mine)).version == "2"

    await eventually(moved)
    assert await desk.ask(mine) == Answer("2", expected(2))
    await desk.publish(5, mine)

    async def own() -> bool:
        return await desk.ask(mine) == Answer("1", expected(5))

    await eventually(own)
    assert await desk.ask(ModelRef("initech", application)) == Answer("2", expected(2))
