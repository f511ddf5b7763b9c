"""Restarting every scorer in turn under load: no request fails, and with what is loaded ahead hardly one is cold."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from client import Residency
from ops.etcd_server import EtcdServer
from tests.chaos.load import Load
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import Fresh, Shelf

_MODELS = 24
_WITHOUT = ("--warm-s", "0", "--handover-s", "0")


async def _restart_all(cluster: Cluster, models: list[Fresh]) -> Counter[Residency]:
    """Restart one scorer after the other under load; how often each residency was answered meanwhile."""
    async with cluster.client() as client, Load(cluster, models, client) as load:
        await load.more(10 * _MODELS)  # all that is owned is in memory
        before = load.residencies.copy()
        for scorer in cluster.scorers:
            scorer.terminate()
            await load.until(lambda: scorer.process.exit_code is not None, "it to end")  # noqa: B023
            assert scorer.process.exit_code == 0, scorer.log()
            await load.more(4 * _MODELS)
            scorer.restart()
            await asyncio.to_thread(scorer.wait_health)
            await asyncio.to_thread(cluster.wait_members, len(cluster.scorers))
            await load.more(4 * _MODELS)
        assert load.failures == []
        return load.residencies - before


async def test_a_rolling_restart_fails_nothing_and_leaves_no_model_cold(
    etcd_server: EtcdServer, store: GatedStore, tmp_path: Path
) -> None:
    cold: dict[str, int] = {}
    for name, options in (("ahead", ()), ("not-ahead", _WITHOUT)):
        cluster = Cluster(tmp_path / name, etcd_server, store.url, name=f"rolling-{name}", front="http2")
        cluster.directory.mkdir()
        try:
            for _ in range(3):
                cluster.add_scorer(*options)
            cluster.add_router()
            cluster.wait_ready()
            shelf = Shelf(store.directory, etcd_server, cluster.name)
            models = [await shelf.fresh(tenant=f"rolling-{name}") for _ in range(_MODELS)]
            answers = await _restart_all(cluster, models)
        finally:
            cluster.stop()
        cold[name] = answers.total() - answers[Residency.HIT]
    assert cold["not-ahead"] >= _MODELS, "each model moves at least once"
    assert cold["ahead"] * 5 <= cold["not-ahead"]
