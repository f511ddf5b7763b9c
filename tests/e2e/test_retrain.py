"""A retrain under load: the live alias goes from version to version, and no request feels it."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from client import AsyncClient
from client.scores import Residency
from ops.etcd_server import EtcdServer
from registry.model import ModelRef
from registry.rollout.bulk import Bulk, BulkRequest
from registry.rollout.bulk_plan import Selection
from registry.rollout.prepare import Preparer
from tests.e2e.cluster import Cluster
from tests.e2e.raw import PATIENCE_S
from tests.e2e.retraining import ROW, Answer, SteadyLoad, publish_versions, registry_of, started

REF = ModelRef("acme", "lead-score")
_log = logging.getLogger(__name__)
_PER_S = 500
_SWITCHES = 100


@pytest.fixture
def cluster(etcd_server: EtcdServer, tmp_path: Path) -> Iterator[Cluster]:
    cluster = started(tmp_path, etcd_server, f"retrain-{uuid.uuid4().hex[:8]}", scorers=2)
    yield cluster
    cluster.stop()


class Life(NamedTuple):
    """When a version was live: `began` before the alias's move to it was asked for, `ended` when the move away from it
    had arrived at every scorer.
    """

    began: float
    ended: float


class Switch(NamedTuple):
    version: str
    asked: float
    arrived: float


def lives(first: str, switches: list[Switch]) -> dict[str, list[Life]]:
    found: dict[str, list[Life]] = {}
    version, began = first, 0.0
    for switch in switches:
        found.setdefault(version, []).append(Life(began, switch.arrived))
        version, began = switch.version, switch.asked
    found.setdefault(version, []).append(Life(began, float("inf")))
    return found


def was_live(answer: Answer, known: dict[str, list[Life]]) -> bool:
    """Whether the version that answered was live at some time between sending and receiving."""
    versions = known[answer.scores.version]
    return any(life.began <= answer.received and answer.sent <= life.ended for life in versions)


async def wait_arrived(scorers: list[AsyncClient], version: str, ref: ModelRef = REF) -> None:
    """Wait until every scorer answers with this version."""
    async with asyncio.timeout(30):
        for scorer in scorers:
            while (await scorer.score(*ref, ROW, timeout_s=PATIENCE_S)).version != version:
                await asyncio.sleep(0.001)


async def test_alias_switches_under_load_are_not_felt(cluster: Cluster, tmp_path: Path) -> None:
    """Each switch is to a version that no scorer has loaded before."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(registry_of(cluster))
        client = await stack.enter_async_context(cluster.client())
        scorers = [await stack.enter_async_context(AsyncClient([server.address])) for server in cluster.scorers]
        expected = await publish_versions(registry, REF, _SWITCHES + 1, tmp_path)
        await wait_arrived(scorers, "1")  # now version 1 is in memory everywhere
        moves, switches = registry.moves(), []
        async with SteadyLoad(client, [REF], _PER_S) as load:
            for number in range(2, _SWITCHES + 2):
                await load.more(50)
                asked = time.monotonic()
                await moves.point(REF, "live", str(number))
                await wait_arrived(scorers, str(number))
                switches.append(Switch(str(number), asked, time.monotonic()))
            await load.more(50)
    known = lives("1", switches)
    assert not load.failures
    assert len(load.answers) == load.sent >= 50 * _SWITCHES
    assert {answer.scores.residency for answer in load.answers} == {Residency.HIT}
    assert {answer.scores.version for answer in load.answers} == set(expected)
    assert all(was_live(answer, known) for answer in load.answers)
    assert all(answer.scores.values.tobytes() == expected[answer.scores.version] for answer in load.answers)
    report(load.answers, switches)


def report(answers: list[Answer], switches: list[Switch]) -> None:
    """How fast it was; seen with `pytest --log-level=INFO -rP`."""
    waits_ms = sorted((answer.received - answer.sent) * 1e3 for answer in answers)
    took_ms = sorted((switch.arrived - switch.asked) * 1e3 for switch in switches)
    _log.info("%d requests in %.1f s", len(answers), answers[-1].received - answers[0].sent)
    _log.info("a request: p50 %.1f ms, p99 %.1f ms", waits_ms[len(waits_ms) // 2], waits_ms[-len(waits_ms) // 100])
    _log.info("a switch: p50 %.1f ms, at most %.1f ms", took_ms[len(took_ms) // 2], took_ms[-1])


async def test_without_preparation_the_first_request_is_cold(cluster: Cluster, tmp_path: Path) -> None:
    """That the test above can fail."""
    async with registry_of(cluster) as registry, cluster.client() as client:
        await publish_versions(registry, REF, 4, tmp_path)
        moves = registry.moves(prepared=False)
        async with SteadyLoad(client, [REF], _PER_S) as load:
            for version in ("2", "3", "4"):
                await load.more(50)
                await moves.point(REF, "live", version)
            await load.more(50)
    assert not load.failures
    cold = {answer.scores.version for answer in load.answers if answer.scores.residency is not Residency.HIT}
    assert {"2", "3", "4"} <= cold


async def test_a_bulk_rollout_under_load_is_not_felt(cluster: Cluster, tmp_path: Path) -> None:
    refs = [ModelRef(f"tenant{number % 4}", f"m{number}") for number in range(24)]
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(registry_of(cluster))
        client = await stack.enter_async_context(cluster.client())
        scorers = [await stack.enter_async_context(AsyncClient([server.address])) for server in cluster.scorers]
        expected = {ref: await publish_versions(registry, ref, 2, tmp_path) for ref in refs}
        for ref in refs:
            await wait_arrived(scorers, "1", ref)
        bulk = Bulk(registry.ledger, Preparer(registry.calls).prepare_many)
        async with SteadyLoad(client, refs, _PER_S) as load:
            await load.more(100)
            async for step in bulk.run(BulkRequest(Selection(labels={"run": "spring"}), stages=(10, 100))):
                assert not step.failure
            for ref in refs:
                await wait_arrived(scorers, "2", ref)
            await load.more(100)
    assert (step.done, step.total) == (24, 24)
    assert not load.failures
    assert {answer.scores.residency for answer in load.answers} == {Residency.HIT}
    assert {answer.scores.version for answer in load.answers[-50:]} == {"2"}
    assert all(answer.scores.values.tobytes() == expected[answer.ref][answer.scores.version] for answer in load.answers)
