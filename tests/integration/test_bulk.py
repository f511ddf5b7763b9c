"""Bulk rollouts over real records: selection, stages, failures, and going on after a kill."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer
from ops.process import guarded
from registry.bounded import map_all
from registry.change import point, retire
from registry.errors import ConflictError, InvalidRequestError, RolloutStoppedError
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.layout import bulk_plan_path
from registry.ledger import Ledger
from registry.library import index_of
from registry.model import ModelRef
from registry.rollout.bulk import Bulk, BulkRequest, BulkStep
from registry.rollout.bulk_plan import Selection
from registry.rollout.prepare import Preparation
from registry.store_urls import open_store
from tests.integration.paper_models import publish
from tests.integration.publishing import index_entry, open_ledger

_ROOT = Path(__file__).parents[2]
_LEADS = Selection(application="leads")


@pytest.fixture
def ledger(etcd: Etcd, keys: Keys, tmp_path: Path) -> Ledger:
    return open_ledger(open_store(f"file://{tmp_path}/store"), etcd, keys)


async def make_models(ledger: Ledger, count: int, application: str = "leads") -> list[ModelRef]:
    """Models with version 1 live and a version 2 that nothing points at."""
    refs = [ModelRef(f"t{number % 5}", f"{application}{number}") for number in range(count)]

    async def make(ref: ModelRef) -> None:
        for version in ("1", "2"):
            aliases = ("live",) if version == "1" else ()
            run = {"run": f"spring-{version}"}
            await publish(ledger, ref, version, aliases=aliases, application=application, training=run)

    await map_all(refs, make, 16)
    return refs


async def run(bulk: Bulk, request: BulkRequest) -> list[BulkStep]:
    async with aclosing(bulk.run(request)) as steps:
        return [step async for step in steps]


async def live(ledger: Ledger, refs: Sequence[ModelRef]) -> list[str]:
    """The live versions in object storage; checks that etcd says the same."""

    async def look(ref: ModelRef) -> str:
        record = await ledger.library.newest_aliases(ref)
        assert record is not None
        assert await index_entry(ledger.etcd, ledger.keys, ref) == index_of(record)
        return record.aliases["live"]

    return await map_all(refs, look, 16)


async def test_all_selected_models_move_stage_by_stage(ledger: Ledger) -> None:
    refs, others = await make_models(ledger, 120), await make_models(ledger, 3, "other")
    prepared: list[Preparation] = []

    async def prepare(preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
        prepared.extend(preparations)
        return {}

    steps = await run(Bulk(ledger, prepare), BulkRequest(_LEADS))
    assert await live(ledger, refs) == ["2"] * 120
    assert await live(ledger, others) == ["1"] * 3
    assert [step.stage for step in steps] == [0] + [1] * 2 + [2] * 10 + [3] * 48 + [4] * 60
    assert [step.done for step in steps] == list(range(121))
    assert {step.total for step in steps} == {120}
    assert {step.model for step in steps[1:]} == set(refs)
    assert all(not step.failure for step in steps)
    assert {item.ref for item in prepared} == set(refs)
    assert all([v.version for v in (*it.old, *it.new)] == ["1", "2"] for it in prepared)


async def test_the_first_stage_alone_and_then_the_rest(ledger: Ledger) -> None:
    refs = await make_models(ledger, 20)
    bulk = Bulk(ledger)
    first = await run(bulk, BulkRequest(_LEADS, stages=(10,), bulk_id="spring"))
    assert (first[-1].done, (await live(ledger, refs)).count("2")) == (2, 2)
    moved = {step.model for step in first[1:]}
    rest = await run(bulk, BulkRequest(_LEADS, stages=(10, 100), bulk_id="spring"))
    assert {step.model for step in rest if step.stage == 1} == moved
    assert await live(ledger, refs) == ["2"] * 20
    revisions = [await ledger.library.newest_aliases(ref) for ref in refs]
    assert len({record.revision for record in revisions if record is not None}) == 1


async def test_conditions_select(ledger: Ledger) -> None:
    a, b, c = ModelRef("acme", "a"), ModelRef("acme", "b"), ModelRef("umbrella", "c")
    for ref in (a, b, c):
        await publish(ledger, ref, "1", application="leads")
        await publish(ledger, ref, "2", aliases=(), labels={"team": "x"}, training={"run": "r1"})
        await publish(ledger, ref, "10", aliases=(), labels={"team": "y"}, training={"run": "r1", "seed": "1"})
    await ledger.change(b, retire(b, "10"))
    newest = [
        (Selection(tenant="acme"), {a: "10", b: "2"}),
        (Selection(tenant="acme", training={"run": "r1"}), {a: "10", b: "2"}),
        (Selection(labels={"team": "x"}), {a: "2", b: "2", c: "2"}),
        (Selection(labels={"team": "y"}, training={"run": "r1"}), {a: "10", c: "10"}),
        (Selection(training={"run": "r2"}), {}),
        (Selection(tenant="acme", version="2"), {a: "2", b: "2"}),
        (Selection(tenant="umbrella", version="3"), {}),
        (Selection(tenant="nobody"), {}),
        (Selection(application="leads"), {a: "1", b: "1", c: "1"}),
        (Selection(application="leads", labels={"team": "x"}), {}),
    ]
    for number, (selection, targets) in enumerate(newest):
        await run(Bulk(ledger), BulkRequest(selection, alias=f"next{number}"))
        records = {ref: await ledger.library.newest_aliases(ref) for ref in (a, b, c)}
        moved = {ref: record.aliases.get(f"next{number}") for ref, record in records.items() if record is not None}
        assert {ref: version for ref, version in moved.items() if version} == targets
    with pytest.raises(InvalidRequestError, match="say which models"):
        await run(Bulk(ledger), BulkRequest(Selection(version="2")))


async def test_a_dry_run_does_nothing(ledger: Ledger) -> None:
    refs = await make_models(ledger, 10)
    steps = await run(Bulk(ledger), BulkRequest(_LEADS, bulk_id="spring", dry_run=True))
    assert {step.model for step in steps[1:]} == set(refs)
    assert await live(ledger, refs) == ["1"] * 10
    assert await ledger.library.store.create(bulk_plan_path("spring"), b"")


async def test_it_stops_when_too_many_fail_and_goes_on_later(ledger: Ledger) -> None:
    refs = await make_models(ledger, 40)
    broken = set(refs)

    async def prepare(preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
        return {item.ref: "no memory" for item in preparations if item.ref in broken}

    bulk = Bulk(ledger, prepare)
    seen: list[BulkStep] = []

    async def go() -> None:
        async for step in bulk.run(BulkRequest(_LEADS, stages=(10, 100), bulk_id="b", max_failed_ratio=0.2)):
            seen.append(step)  # noqa: PERF401 - it is read after the failure

    with pytest.raises(RolloutStoppedError, match=r"stopped in stage 1 \(10 %\): 4 of its 4 models failed; 0 of 40"):
        await go()
    assert [step.failure for step in seen[1:]] == ["no memory"] * 4
    assert await live(ledger, refs) == ["1"] * 40
    broken = {refs[0]}
    steps = await run(bulk, BulkRequest(_LEADS, bulk_id="b", stages=(100,), max_failed_ratio=0.2))
    assert (steps[-1].done, steps[-1].failed) == (39, 1)
    assert (await live(ledger, refs)).count("2") == 39


async def test_who_was_moved_meanwhile_is_left_alone(ledger: Ledger) -> None:
    refs = await make_models(ledger, 10)
    other = await publish(ledger, refs[3], "3", aliases=())
    target = (await ledger.library.read_manifest(refs[4], "2")).to_version()

    async def prepare(_preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
        # Between the look at the models and their move: one is moved elsewhere, one to its target.
        await ledger.change(refs[3], point(refs[3], {"live": other.to_version()}))
        await ledger.change(refs[4], point(refs[4], {"live": target}))
        return {}

    spring = Selection(training={"run": "spring-2"})
    request = BulkRequest(spring, stages=(100,), max_failed_ratio=0.5, bulk_id="b")
    steps = await run(Bulk(ledger, prepare), request)
    failed = [step for step in steps if step.failure]
    assert [(step.model, step.failure) for step in failed] == [
        (refs[3], f"alias live of model {refs[3]} is at 3, not 1")
    ]
    assert (await live(ledger, refs)).count("2") == 9
    steps = await run(Bulk(ledger), request)
    assert [step.failure for step in steps if step.failure] == ["alias live is at 3, not 1: somebody else moved it"]


async def test_what_is_stored_but_not_in_etcd_is_finished(ledger: Ledger) -> None:
    (ref,) = await make_models(ledger, 1)
    before = await index_entry(ledger.etcd, ledger.keys, ref)
    assert before is not None
    request = BulkRequest(_LEADS, bulk_id="b")
    await run(Bulk(ledger), request)
    await ledger.etcd.put(ledger.keys.model(ref), encode(before))  # as if its author had died before he told etcd
    prepared: list[Preparation] = []

    async def prepare(preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
        prepared.extend(preparations)
        return {}

    await run(Bulk(ledger, prepare), request)
    assert await live(ledger, [ref]) == ["2"]
    assert [[v.version for v in (*it.old, *it.new)] for it in prepared] == [["1", "2"]]


async def test_a_bulk_id_is_of_one_alias(ledger: Ledger) -> None:
    await make_models(ledger, 1)
    await run(Bulk(ledger), BulkRequest(_LEADS, bulk_id="b"))
    with pytest.raises(ConflictError, match="bulk rollout b is about alias live, not next"):
        await run(Bulk(ledger), BulkRequest(_LEADS, bulk_id="b", alias="next"))


async def test_two_runs_of_one_id_at_once(ledger: Ledger) -> None:
    refs = await make_models(ledger, 60)
    both = await asyncio.gather(*(run(Bulk(ledger), BulkRequest(_LEADS, bulk_id="b")) for _ in range(2)))
    assert [steps[-1].done for steps in both] == [60, 60]
    assert await live(ledger, refs) == ["2"] * 60
    records = [await ledger.library.newest_aliases(ref) for ref in refs]
    assert len({record.revision for record in records if record is not None}) == 1


async def test_a_pause_is_between_stages_that_moved_something(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_models(ledger, 10)
    pauses: list[float] = []
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("registry.rollout.bulk.asyncio.sleep", note)
    request = BulkRequest(_LEADS, stages=(10, 50, 100), pause_s=7.5, bulk_id="b")
    await run(Bulk(ledger), request)
    assert pauses.count(7.5) == 2
    await run(Bulk(ledger), request)
    assert pauses.count(7.5) == 2


@pytest.mark.parametrize("kill_after", [1, 40, 130])
async def test_killed_in_the_middle_it_goes_on(
    ledger: Ledger, etcd_server: EtcdServer, keys: Keys, tmp_path: Path, kill_after: int
) -> None:
    refs = await make_models(ledger, 150)
    cluster = keys.models_prefix.decode().split("/")[2]
    env = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'protos'}"}
    script = str(_ROOT / "tests/integration/bulk_runner.py")
    argv = guarded([sys.executable, script, f"file://{tmp_path}/store", etcd_server.endpoint, cluster, "b"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as process:  # noqa: ASYNC220 - the kernel ends it with us
        assert process.stdout is not None
        for _ in range(kill_after):
            assert await asyncio.to_thread(process.stdout.readline)
        process.kill()
        assert await asyncio.to_thread(process.wait) == -9
    steps = await run(Bulk(ledger), BulkRequest(_LEADS, bulk_id="b"))
    assert (steps[-1].done, steps[-1].failed) == (150, 0)
    assert await live(ledger, refs) == ["2"] * 150
    records = [await ledger.library.newest_aliases(ref) for ref in refs]
    assert {record.revision for record in records if record is not None} == {3}  # nothing moved twice
