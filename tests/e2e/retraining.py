"""A model with many versions that can be told apart by their scores, and open load on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import lightgbm
import numpy as np

from client import AsyncClient, ScoreError, Scores
from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves, Prepare, no_preparation
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.library import Library
from registry.model import ModelRef
from registry.offer import Admitted, Facts, Offer
from registry.publish import Publisher
from registry.rollout.prepare import Preparer
from registry.rollout.scorers import ScorerCalls
from registry.store_urls import open_store
from tests.e2e.cluster import Cluster
from tests.e2e.raw import PATIENCE_S

ROWS = np.random.default_rng(1).normal(size=(200, 4))
ROW = ROWS[:1]
_FACTS = Facts(labels={"run": "spring"})


class Registry(NamedTuple):
    """What moves aliases in one cluster."""

    ledger: Ledger
    calls: ScorerCalls

    def moves(self, *, prepared: bool = True) -> AliasMoves:
        prepare: Prepare = Preparer(self.calls).prepare if prepared else no_preparation
        return AliasMoves(self.ledger, prepare)


@asynccontextmanager
async def registry_of(cluster: Cluster) -> AsyncIterator[Registry]:
    etcd, keys = Etcd([cluster.etcd.endpoint]), Keys(cluster.name)
    calls = ScorerCalls(etcd, keys)
    try:
        yield Registry(Ledger(Library(open_store(cluster.store_url)), etcd, keys), calls)
    finally:
        await calls.aclose()
        await etcd.aclose()


def started(directory: Path, etcd: EtcdServer, name: str, scorers: int) -> Cluster:
    """A cluster of its own, with a file store."""
    (directory / "store").mkdir()
    cluster = Cluster(directory, etcd, f"file://{directory}/store", name=name, front="http2")
    try:
        return cluster.start(scorers=scorers)
    except BaseException:
        cluster.stop()
        raise


async def publish_versions(
    registry: Registry, ref: ModelRef, count: int, directory: Path, *, first: int = 1, trained_as: int = 0
) -> dict[str, bytes]:
    """Train and publish versions "1", "2", and so on; the first is live. Returns the score of ROW by each, as bytes.
    `trained_as`: with the data of another number.
    """
    publisher = Publisher(registry.ledger, registry.moves(prepared=False), _admit)
    expected: dict[str, bytes] = {}
    for number in range(first, first + count):
        path = directory / f"{ref.model}-{number}.txt"
        booster = _train(trained_as or number)
        booster.save_model(path)
        aliases = ("live",) if number == 1 else ()
        manifest = await publisher.publish(path, ref, version=str(number), aliases=aliases, facts=_FACTS)
        expected[manifest.version] = np.asarray(booster.predict(ROW)).tobytes()
    assert len(set(expected.values())) == count
    return expected


def _train(number: int) -> lightgbm.Booster:
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    return lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0] + ROWS[:, 1] * number), 3)


async def _admit(offer: Offer) -> Admitted:
    """These models are all alike, and what they look like is known."""
    from scorer.engine import engine_for

    return Admitted(offer.data, engine_for(offer.runtime).describe(offer.data), 1 << 19, {"1": 2.0, "64": 20.0})


class Answer(NamedTuple):
    """One request of the load; times by the monotonic clock."""

    ref: ModelRef
    sent: float
    received: float
    scores: Scores


class SteadyLoad:
    """`async with`: requests for the live versions of models, each in turn, sent at a fixed rate whether they are
    answered or not.
    """

    def __init__(self, client: AsyncClient, refs: Sequence[ModelRef], per_s: float) -> None:
        self._client, self._refs, self._per_s = client, refs, per_s
        self._running: set[asyncio.Task[None]] = set()
        self.sent = 0
        self.answers: list[Answer] = []
        self.failures: list[str] = []

    async def __aenter__(self) -> SteadyLoad:
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._sending.cancel()
        await asyncio.wait({self._sending})
        await asyncio.gather(*self._running)

    async def _send(self) -> None:
        began = time.monotonic()
        while True:
            while self.sent < (time.monotonic() - began) * self._per_s:
                self.sent += 1
                task = asyncio.create_task(self._ask(self._refs[self.sent % len(self._refs)]))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            await asyncio.sleep(0.5 / self._per_s)

    async def _ask(self, ref: ModelRef) -> None:
        sent = time.monotonic()
        try:
            scores = await self._client.score(*ref, ROW, timeout_s=PATIENCE_S)
        except ScoreError as error:
            self.failures.append(str(error))
            return
        self.answers.append(Answer(ref, sent, time.monotonic(), scores))

    async def more(self, answers: int) -> None:
        """Wait for so many more answers or failures."""
        wanted = len(self.answers) + len(self.failures) + answers
        async with asyncio.timeout(60):
            while len(self.answers) + len(self.failures) < wanted:
                await asyncio.sleep(0.002)
