"""A scorer's process keeps to its memory, as the kernel sees it from outside: with real models that come and go, and
when something else in the process takes memory.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import grpc.aio
import lightgbm
import numpy as np
import psutil
import pytest

from ops.etcd_server import EtcdServer
from ops.member_list import list_members
from ops.server_process import ScorerProcess
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.offer import Admitted, Offer
from registry.probing import probe
from registry.store_urls import open_store
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreBatchRequest, ScoreBatchResponse, ScoreRequest
from tests.integration import publishing
from tests.integration.conftest import WaitUntil

MIB = 2**20
LIMIT_MIB = 160
TAKEN_MIB = 32
MODELS = 40
FEATURES = 20


@cache
def base_text() -> str:
    """A real model that takes about 3 MB."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(4000, FEATURES))
    settings = {"objective": "regression", "verbose": -1, "num_leaves": 127, "min_data_in_leaf": 5, "num_threads": 1}
    target = rows[:, 0] * rows[:, 1] + random.normal(size=4000)
    return str(lightgbm.train(settings, lightgbm.Dataset(rows, target), 300).model_to_string())


class AdmitLikeTheFirst:
    """Tries the first model. The others differ in some digits of one leaf, and the same is said of them."""

    def __init__(self) -> None:
        self._first: Admitted | None = None
        self._number = 0

    async def __call__(self, offer: Offer) -> Admitted:
        if self._first is None:
            self._first = await probe(offer)
        self._number += 1
        digits = rb"\g<1>%03d" % self._number
        return self._first._replace(
            artifact=re.sub(rb"(leaf_value=-?\d\.\d{5})\d{3}", digits, self._first.artifact, count=1)
        )


class Desk:
    """The scorer's process, asked over gRPC."""

    def __init__(self, scorer: ScorerProcess, channel: grpc.aio.Channel) -> None:
        self.scorer = scorer
        self._process = psutil.Process(scorer.pid)
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/scoremesh.scoring.v1.ScoringService/ScoreBatch"
        )

    @property
    def resident_mib(self) -> float:
        return float(self._process.memory_info().rss / MIB)

    async def ask(self, places: Sequence[int]) -> int:
        """Ask for one row of each; returns how many were in memory. All must answer."""
        row = np.zeros(FEATURES)
        hits = 0
        for start in range(0, len(places), 4):
            some = [f"m{place}" for place in places[start : start + 4]]
            items = [ScoreRequest(tenant="acme", model=m, row_count=1, dense_double=row) for m in some]
            answer = await self._call(ScoreBatchRequest(items=items).SerializeToString(), timeout=60)
            results = ScoreBatchResponse.FromString(answer).results
            assert [result.message for result in results if result.code] == []
            hits += sum(result.response.residency == RESIDENCY_HIT for result in results)
        return hits


def _cluster(keys: Keys) -> str:
    return keys.models_prefix.decode().split("/")[2]


@asynccontextmanager
async def scorer_with(
    memory: str, server: EtcdServer, etcd: Etcd, keys: Keys, folder: Path
) -> AsyncIterator[ScorerProcess]:
    arguments = ["--etcd", server.endpoint, "--cluster", _cluster(keys), "--store", f"file://{folder}/store"]
    arguments += ["--cache-dir", str(folder / "cache"), "--memory", memory, "--drain-s", "1"]
    module = "tests.integration.hungry_scorer"
    scorer = ScorerProcess("hungry", arguments, folder / "log", etcd, keys, module=module)
    await scorer.start()
    try:
        yield scorer
    finally:
        await scorer.terminate()


@pytest.mark.parametrize("etcd_binary", ["etcd-3.5"], indirect=True)
async def test_a_process_keeps_to_its_memory(
    etcd_server: EtcdServer,
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # as the scorer's own start sets it
    publisher = publishing.publisher(open_store(f"file://{tmp_path}/store"), etcd, keys, AdmitLikeTheFirst())
    path = tmp_path / "model.txt"
    path.write_text(base_text())
    for number in range(MODELS):
        await publisher.publish(path, ModelRef("acme", f"m{number}"))

    async with (
        scorer_with(f"{LIMIT_MIB}MiB", etcd_server, etcd, keys, tmp_path) as scorer,
        grpc.aio.insecure_channel(scorer.address) as channel,
    ):
        desk = Desk(scorer, channel)
        before = desk.resident_mib
        for _ in range(2):
            await desk.ask(range(MODELS))
            assert before + 30 < desk.resident_mib < LIMIT_MIB * 1.1
        await wait_until(lambda: desk.resident_mib <= LIMIT_MIB)
        kept = await desk.ask(range(0, MODELS, 5))
        assert 0 < kept < MODELS // 5

        scorer.process.send(signal.SIGUSR1)
        await wait_until(lambda: b"MiB that it may" in scorer.log_since_start())
        await wait_until(lambda: desk.resident_mib <= LIMIT_MIB)
        crowded = desk.resident_mib
        assert 0 < await desk.ask(range(0, MODELS, 5)) + await desk.ask(range(MODELS)) < MODELS
        await wait_until(lambda: desk.resident_mib <= LIMIT_MIB * 1.02)
        assert crowded > TAKEN_MIB + before

        scorer.process.send(signal.SIGUSR2)
        await wait_until(lambda: desk.resident_mib < crowded - TAKEN_MIB / 2)
        less = desk.resident_mib
        async with asyncio.timeout(60):
            while desk.resident_mib < less + TAKEN_MIB / 2:  # the room rises by a step a second
                await desk.ask(range(MODELS))
        assert desk.resident_mib < LIMIT_MIB * 1.1


@pytest.mark.parametrize("etcd_binary", ["etcd-3.5"], indirect=True)
async def test_a_share_of_the_machine_is_announced_alike_at_each_start(
    etcd_server: EtcdServer, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    seen = []
    for _ in range(2):
        async with scorer_with("70%", etcd_server, etcd, keys, tmp_path) as scorer:
            seen.append((await list_members(etcd, keys))[scorer.id].capacity_bytes)
    assert seen[0] == seen[1] > 0
