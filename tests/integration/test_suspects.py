"""Two crashes put a package in quarantine, whoever reports them and however often; and every scorer knows at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from ops.etcd_server import EtcdServer
from registry.errors import QuarantinedError
from registry.etcd import Etcd
from registry.etcd_endpoints import LEASE_TIME_TO_LIVE, RANGE
from registry.keys import Keys, encode
from registry.model import ModelRecord, ModelRef, ModelVersion, Rollout, Runtime
from registry.quarantine import Quarantine, quarantined
from registry.quarantined import Quarantined
from registry.suspects import SUSPICION_S, Suspects, Suspicion
from scoremesh.etcd.v1 import etcd_pb2 as pb
from scorer.crash_notes import CrashNote, CrashNotes
from scorer.precaution import Precaution

_TOLD = Suspicion("scorer-1", "crashed with SIGSEGV", "2026-01-01T00:00:00Z")
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


def _version(package: str) -> ModelVersion:
    return ModelVersion("7", package, "acme", "a" * 64, "b" * 64, Runtime.LIGHTGBM, 1, 1)


@contextlib.asynccontextmanager
async def _running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_the_second_crash_begins_the_quarantine(etcd: Etcd, keys: Keys) -> None:
    suspects, quarantine = Suspects(etcd, keys), Quarantine(etcd, keys)
    assert not await suspects.report("p", "crash1", _TOLD)
    assert not await suspects.report("p", "crash1", _TOLD), "the same crash, told twice"
    assert not await suspects.report("p1", "crash2", _TOLD), "another package, which begins with the same letter"
    assert await quarantine.list() == []

    assert await suspects.report("p", "crash2", _TOLD)
    [record] = await quarantine.list()
    assert record.package == "p"
    assert record.by == "scorer-1"
    assert record.reason.count("scorer scorer-1 crashed with SIGSEGV at 2026-01-01T00:00:00Z") == 2
    assert 3590 < (datetime.fromisoformat(record.until) - datetime.now(UTC)).total_seconds() <= 3600


@pytest.mark.parametrize("where", ["alias", "canary", "shadow"])
async def test_the_version_is_named_where_the_index_knows_it(etcd: Etcd, keys: Keys, where: str) -> None:
    other, bad = _version("other"), msgspec.structs.replace(_version("p"), version="8")
    meant = bad if where == "alias" else msgspec.structs.replace(other, rollout=Rollout("r", **{where: bad}))  # type: ignore[arg-type]
    await etcd.put(keys.model(ModelRef("acme", "a")), encode(ModelRecord(1, {"live": other})))
    await etcd.put(keys.model(ModelRef("acme", "b")), b"p, but no entry")
    await etcd.put(keys.model(ModelRef("acme", "c")), encode(ModelRecord(1, {"old": other, "live": meant})))
    assert [await Suspects(etcd, keys).report("p", crash, _TOLD) for crash in "ab"] == [False, True]
    [record] = await Quarantine(etcd, keys).list()
    assert (record.tenant, record.model, record.version) == ("acme", "c", "8")


async def test_after_a_lift_it_takes_two_crashes_again(etcd: Etcd, keys: Keys) -> None:
    suspects, quarantine = Suspects(etcd, keys), Quarantine(etcd, keys)
    assert [await suspects.report("p", crash, _TOLD) for crash in "abx"] == [False, True, False]
    await quarantine.lift("p")
    assert [await suspects.report("p", crash, _TOLD) for crash in "cd"] == [False, True]


async def test_of_many_who_report_at_once_one_begins_it(etcd: Etcd, keys: Keys) -> None:
    suspects = [Suspects(etcd, keys) for _ in range(8)]
    began = await asyncio.gather(*(each.report("p", f"crash{n}", _TOLD) for n, each in enumerate(suspects)))
    assert began.count(True) == 1
    assert [record.package for record in await Quarantine(etcd, keys).list()] == ["p"]


async def test_what_an_operator_said_is_not_replaced(etcd: Etcd, keys: Keys) -> None:
    suspects, quarantine = Suspects(etcd, keys), Quarantine(etcd, keys)
    said = quarantined("p", "looks odd", "operator", now=datetime.now(UTC))
    await quarantine.put(said)
    assert [await suspects.report("p", crash, _TOLD) for crash in "ab"] == [False, False]
    assert await quarantine.list() == [said]


async def test_a_suspicion_ends_by_itself(etcd: Etcd, keys: Keys) -> None:
    await Suspects(etcd, keys).report("p", "crash1", _TOLD)
    [kv] = (await etcd.endpoints.call(RANGE, pb.RangeRequest(key=keys.suspect("p", "crash1")))).message.kvs
    left = (await etcd.endpoints.call(LEASE_TIME_TO_LIVE, pb.LeaseTimeToLiveRequest(ID=kv.lease))).message.TTL
    assert SUSPICION_S - 30 < left <= SUSPICION_S


async def test_damaged_keys_count_and_stop_nothing(etcd: Etcd, keys: Keys) -> None:
    await etcd.put(keys.suspect("p", "crash1"), b"\xff")
    await etcd.put(keys.quarantine("q"), b"\xff")
    assert await Suspects(etcd, keys).report("p", "crash2", _TOLD)
    assert [record.package for record in await Quarantine(etcd, keys).list()] == ["p"]


async def test_a_scorer_knows_what_is_forbidden(etcd: Etcd, keys: Keys, wait_until: WaitUntil) -> None:
    quarantine = Quarantine(etcd, keys)
    await quarantine.put(quarantined("p", "it crashed", "scorer-1", now=datetime.now(UTC), ttl_s=2))
    begun: list[set[str]] = []
    held = Quarantined(etcd, keys, begun.append)
    assert held.refusal(_version("p")) is None
    async with _running(asyncio.create_task(held.run())):
        await held.known.wait()
        error = held.refusal(_version("p"))
        assert isinstance(error, QuarantinedError)
        assert "version 7 can't be loaded: its package p is in quarantine until " in error.message
        assert "said scorer-1: it crashed; `scoremesh quarantine lift p` ends it" in error.message
        assert held.refusal(_version("other")) is None

        await quarantine.put(quarantined("q", "it hung", "scorer-1", now=datetime.now(UTC)))
        await wait_until(lambda: held.refusal(_version("q")) is not None)
        assert "without an end" in str(held.refusal(_version("q")))
        assert begun == [{"p"}, {"q"}]
        await quarantine.lift("q")
        await wait_until(lambda: held.refusal(_version("q")) is None)
        await wait_until(lambda: held.refusal(_version("p")) is None)
        await etcd.put(keys.quarantine("r"), b"nobody's word")
        await quarantine.put(quarantined("s", "", "", now=datetime.now(UTC)))
        await wait_until(lambda: held.refusal(_version("s")) is not None)
        assert held.refusal(_version("r")) is None


@pytest.fixture
def notes(tmp_path: Path) -> CrashNotes:
    notes = CrashNotes(tmp_path / "notes")
    notes.add(*(CrashNote(f"crash{n}", "p", "hung in a load", "2026-01-01T00:00:00Z") for n in range(2)))
    return notes


async def test_notes_are_told_before_a_scorer_is_ready(etcd: Etcd, keys: Keys, notes: CrashNotes) -> None:
    begun: list[set[str]] = []
    notes.add(CrashNote("crash2", "half a na\ufffd", "hung in a load", "2026-01-01T00:00:00Z"))
    precaution = Precaution(etcd, keys, "scorer-1", notes, begun.append)
    async with _running(asyncio.create_task(precaution.run())):
        await precaution.wait_ready()
        assert begun == [{"p"}]
        assert precaution.refusal(_version("p")) is not None
        assert notes.read() == []


async def test_notes_wait_for_etcd_and_what_is_known_outlives_it(
    own_server: EtcdServer, keys: Keys, notes: CrashNotes, wait_until: WaitUntil
) -> None:
    own_server.freeze()
    etcd = Etcd([own_server.endpoint], timeout_s=0.3, retry_s=0.3)
    precaution = Precaution(etcd, keys, "scorer-1", notes, lambda _: None)
    async with contextlib.aclosing(etcd), _running(asyncio.create_task(precaution.run())):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await precaution.wait_ready()
        assert len(notes.read()) == 2
        own_server.thaw()
        await wait_until(lambda: precaution.refusal(_version("p")) is not None)
        await wait_until(lambda: notes.read() == [])
        own_server.kill()
        assert precaution.refusal(_version("p")) is not None
