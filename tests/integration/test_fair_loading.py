"""Fair loading over gRPC: a whole scorer with real models, whose store can be held back or made slow."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import cast

import grpc.aio
import lightgbm
import numpy as np
import pytest

from ops.etcd_server import EtcdServer
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.layout import artifact_path
from registry.manifest import Manifest
from registry.model import ModelRef, TenantRecord
from registry.offer import Admitted, Offer
from registry.store_urls import open_store
from scoremesh.scorer.v1 import scorer_pb2
from scoremesh.scoring.v1.scoring_pb2 import (
    RESIDENCY_HIT,
    ScoreRequest,
    ScoreResult,
    StreamScoreBatchRequest,
    StreamScoreBatchResponse,
)
from scorer import loads, residents
from scorer.config import parse
from scorer.engine import engine_for
from scorer.server import RESIDENCY_SERVICE, SERVICE, Scorer
from tests.integration import publishing
from tests.integration.conftest import WaitUntil

ROWS = np.random.default_rng(1).normal(size=(200, 3))


@cache
def model_text(number: int) -> str:
    """A real model that says about `number` times the first feature."""
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    text: str = lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] * number), 3).model_to_string()
    return text


async def known_admit(offer: Offer) -> Admitted:
    return Admitted(offer.data, engine_for(offer.runtime).describe(offer.data), 100_000, {"1": 2.0, "64": 20.0})


class SlowStore:
    """Artifacts come when the gate is open, and `delay_s` later. `asked`: their paths, in order."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.delay_s = 0.0
        self.asked: list[str] = []

    async def get(self, path: str, size_bytes: int = 0) -> bytes:
        if "/artifacts/" in path:
            self.asked.append(path)
            await self.gate.wait()
            await asyncio.sleep(self.delay_s)
        return await self._store.get(path, size_bytes)


class Desk:
    """A scorer with a quarter of a MiB, its store and its etcd; and how to publish for it and to ask it."""

    def __init__(self, scorer: Scorer, etcd: Etcd, keys: Keys, folder: Path) -> None:
        self.etcd, self.keys, self._folder = etcd, keys, folder
        objects = open_store(f"file://{folder}/store")
        self._publisher = publishing.publisher(objects, etcd, keys, known_admit)
        self.store = SlowStore(objects)
        scorer._loader._fetch._store = cast("ArtifactStore", self.store)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{scorer.front.port}")
        self._number = 0

    async def publish(self, tenant: str, count: int) -> list[Manifest]:
        """Models m0, m1, ... of a tenant."""
        made = []
        for place in range(count):
            self._number += 1
            path = self._folder / f"{uuid.uuid4().hex}.txt"
            path.write_text(model_text(self._number))
            made.append(await self._publisher.publish(path, ModelRef(tenant, f"m{place}")))
        return made

    async def ask(self, tenant: str, place: int, timeout_ms: int = 30_000) -> ScoreResult:
        """Ask for one row; the deadline is the item's, the call has more time."""
        item = ScoreRequest(tenant=tenant, model=f"m{place}", row_count=1, dense_double=ROWS[0])
        request = StreamScoreBatchRequest(items=[item], timeout_ms=[timeout_ms])
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(
            f"/{SERVICE}/StreamScoreBatch"
        )
        async for answer in call(request.SerializeToString(), timeout=60):
            for result in StreamScoreBatchResponse.FromString(answer).results:
                return result
        raise AssertionError("no answer")

    async def purge(self, tenant: str) -> None:
        request = scorer_pb2.PurgeRequest(tenant=tenant)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{RESIDENCY_SERVICE}/Purge")
        await call(request.SerializeToString(), timeout=30)

    async def settle(self, record: TenantRecord) -> None:
        await self.etcd.put(self.keys.tenant(record.tenant), encode(record))


@pytest.fixture
async def desk(
    etcd_server: EtcdServer, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """Models may leave as soon as they have answered; four are loaded at a time."""
    monkeypatch.setattr(residents, "JUST_LOADED_S", 0.0)
    monkeypatch.setattr(loads, "AT_ONCE", 4)
    cluster = keys.models_prefix.decode().split("/")[2]
    arguments = ["--listen", "127.0.0.1:0", "--etcd", etcd_server.endpoint, "--cluster", cluster, "--drain-s", "1"]
    arguments += ["--store", f"file://{tmp_path}/store", "--cache-dir", f"{tmp_path}/cache", "--capacity-mib", "0.5"]
    etcd = Etcd([etcd_server.endpoint])
    scorer = Scorer(parse(arguments))
    async with scorer.running():
        desk = Desk(scorer, etcd, keys, tmp_path)
        yield desk
        await desk.channel.close()
    await etcd.aclose()


async def test_a_flood_of_cold_requests_is_not_before_another_tenants(desk: Desk, wait_until: WaitUntil) -> None:
    await desk.publish("flood", 12)
    await desk.publish("calm", 2)
    desk.store.gate.clear()
    flood = [asyncio.create_task(desk.ask("flood", place)) for place in range(12)]
    await wait_until(lambda: len(desk.store.asked) == 3)
    calm = [asyncio.create_task(desk.ask("calm", place)) for place in range(2)]
    await wait_until(lambda: len(desk.store.asked) == 4)
    assert "/calm/" in desk.store.asked[3]
    desk.store.gate.set()
    answers = await asyncio.gather(*flood, *calm)
    assert [answer.code for answer in answers] == [0] * 14
    assert sum("/calm/" in path for path in desk.store.asked[:6]) == 2


async def test_who_can_not_be_served_in_time_is_told_so_at_once(desk: Desk, wait_until: WaitUntil) -> None:
    await desk.publish("acme", 30)
    desk.store.delay_s = 0.2
    for answer in await asyncio.gather(*(desk.ask("acme", place) for place in range(6))):
        assert answer.code == 0
    desk.store.gate.clear()
    too_slow = await desk.ask("acme", 6, timeout_ms=150)
    assert (too_slow.code, too_slow.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "DEADLINE_TOO_SHORT")
    assert too_slow.retry_after_ms >= 200
    waiting = [asyncio.create_task(desk.ask("acme", place)) for place in range(7, 29)]
    await wait_until(lambda: len(desk.store.asked) == 6 + 3)
    late = await desk.ask("acme", 29, timeout_ms=500)
    assert (late.code, late.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "LOAD_QUEUE_FULL")
    assert late.retry_after_ms > 500
    desk.store.delay_s = 0.0
    desk.store.gate.set()
    assert [answer.code for answer in await asyncio.gather(*waiting)] == [0] * len(waiting)
    assert (await desk.ask("acme", 6)).code == 0
    await wait_until(lambda: len(desk.store.asked) == 30)
    assert len(set(desk.store.asked)) == 30, "what was refused was loaded, and nothing twice"


async def test_a_failed_load_is_not_tried_for_each_request(desk: Desk) -> None:
    (manifest,) = await desk.publish("acme", 1)
    path = desk._folder / "store" / artifact_path("acme", manifest.artifact)
    away = path.rename(desk._folder / "away")
    first = await desk.ask("acme", 0)
    again = [await desk.ask("acme", 0) for _ in range(5)]
    assert {(answer.code, answer.message) for answer in again} == {(first.code, first.message)}
    assert first.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert (first.retry_after_ms, again[0].retry_after_ms > 0) == (0, True)
    assert len(desk.store.asked) == 1
    away.rename(path)
    await desk.purge("acme")
    assert (await desk.ask("acme", 0)).code == 0


async def test_what_is_guaranteed_to_a_tenant_stays_and_that_is_told_live(desk: Desk, wait_until: WaitUntil) -> None:
    await desk.publish("own", 3)
    await desk.publish("busy", 24)
    await desk.settle(TenantRecord(tenant="own", guaranteed_bytes=400_000))

    async def load_and_see() -> list[bool]:
        """Which of three models are still in memory when another tenant has asked for more than fits."""
        for place in range(3):
            assert (await desk.ask("own", place)).code == 0
        for _ in range(2):
            for place in range(24):
                assert (await desk.ask("busy", place)).code == 0
        return [(await desk.ask("own", place)).response.residency == RESIDENCY_HIT for place in range(3)]

    async with asyncio.timeout(30):
        while not all(await load_and_see()):
            await desk.purge("own")
        await desk.etcd.delete(desk.keys.tenant("own"))
        while all(await load_and_see()):
            await desk.purge("own")
