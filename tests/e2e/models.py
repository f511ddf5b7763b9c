"""Real models for the clusters: trained on the spot, published by the real publisher."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np

from client import AsyncClient, ScoreError
from ops.demo_models import DemoModel
from ops.etcd_server import EtcdServer
from registry.etcd import Etcd
from registry.keys import Keys
from registry.layout import artifact_path
from registry.manifest import Manifest
from registry.model import LIVE, ModelRef
from registry.offer import Admit, Admitted, Facts, Offer
from registry.probing import probe
from registry.rebuild import rebuild
from registry.store_urls import open_store
from tests.e2e.cluster import Cluster
from tests.e2e.raw import PATIENCE_S
from tests.integration.publishing import open_ledger, publisher

PUBLISHED = ("acme/tumour", "acme/cultivar", "umbrella/triage", "initech/iris", "initech/body", "acme/tumour-linear")
_numbers = itertools.count(1)
_NO_FACTS = Facts()
_ROWS = np.random.default_rng(1).normal(size=(200, 4))


@dataclass(frozen=True)
class Fresh:
    """A small model that no scorer has seen yet. `uri`: its artifact's path in the store."""

    ref: ModelRef
    uri: str
    version: str
    rows: np.ndarray
    expected: np.ndarray


class Shelf:
    """Publishes into one cluster. `directory`: of the file store that the gated store serves."""

    def __init__(self, directory: Path, etcd: EtcdServer, cluster: str) -> None:
        self._directory, self._etcd, self._cluster = directory, etcd, cluster

    async def publish(
        self,
        path: Path,
        ref: ModelRef,
        *,
        version: str | None = None,
        aliases: tuple[str, ...] = (LIVE,),
        admit: Admit = probe,
        facts: Facts = _NO_FACTS,
    ) -> Manifest:
        etcd = Etcd([self._etcd.endpoint])
        try:
            opened = publisher(open_store(f"file://{self._directory}"), etcd, Keys(self._cluster), admit)
            return await opened.publish(path, ref, version=version, aliases=aliases, facts=facts)
        finally:
            await etcd.aclose()

    async def sync(self) -> None:
        """Tell this cluster's etcd all that is in the store."""
        etcd = Etcd([self._etcd.endpoint])
        try:
            await rebuild(open_ledger(open_store(f"file://{self._directory}"), etcd, Keys(self._cluster)))
        finally:
            await etcd.aclose()

    async def fresh(self, *, tenant: str = "fresh", megabytes_reserved: float = 0.5) -> Fresh:
        """Train and publish a model with bytes of its own, for each call another one. `megabytes_reserved`: what it
        says that it takes in memory.
        """
        number = next(_numbers)
        target = _ROWS[:, 0] * number + _ROWS[:, 1]
        settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
        booster = lightgbm.train(settings, lightgbm.Dataset(_ROWS, target), 3)
        path = self._directory.parent / f"fresh-{self._cluster}-{number}.txt"
        booster.save_model(path)
        ref = ModelRef(tenant, f"m{number}")
        manifest = await self.publish(path, ref, admit=_known_admit(int(megabytes_reserved * 2**20)))
        path_in_store = artifact_path(ref.tenant, manifest.artifact)
        return Fresh(ref, path_in_store, manifest.version, _ROWS[:8], np.asarray(booster.predict(_ROWS[:8])))


async def wait_answered(cluster: Cluster, models: Mapping[str, DemoModel]) -> None:
    """Wait until every scorer answers for every model that the tests share. After a store was away a scorer remembers
    for up to a second what it failed to load, in the background too.
    """
    for scorer in cluster.scorers:
        async with asyncio.timeout(PATIENCE_S), cluster.client(scorer) as client:
            for name in PUBLISHED:
                while not await _is_answered(client, models[name]):
                    await asyncio.sleep(0.02)


async def _is_answered(client: AsyncClient, model: DemoModel) -> bool:
    try:
        await client.score(*model.ref, model.rows[:1], timeout_s=PATIENCE_S)
    except ScoreError as error:
        if error.reason != "STORE_UNAVAILABLE":
            raise
        return False
    return True


def _known_admit(resident_bytes: int) -> Admit:
    """Spares the process that tries a model: these models are all alike, and what they look like is known."""
    from scorer.engine import engine_for

    async def say(offer: Offer) -> Admitted:
        schema = engine_for(offer.runtime).describe(offer.data)
        return Admitted(offer.data, schema, resident_bytes, {"1": 2.0, "64": 20.0})

    return say
