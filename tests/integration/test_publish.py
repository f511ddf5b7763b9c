"""Publishing against a real etcd and a real file store: order, races, and death at every step."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightgbm
import numpy as np
import pytest

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.errors import (
    ArtifactRejectedError,
    ConflictError,
    EtcdUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    VersionExistsError,
)
from registry.etcd import Etcd, Swap
from registry.keys import Keys, encode
from registry.layout import artifact_path
from registry.ledger import Ledger
from registry.library import Library
from registry.model import ModelRecord, ModelRef, Runtime
from registry.next_record import Condition
from registry.offer import Admitted, Facts, Offer
from registry.probing import probe
from registry.publish import Publisher
from registry.store_urls import open_store
from tests.integration import publishing
from tests.integration.publishing import (
    check_published,
    check_synced,
    index_entry,
    model_file,
    open_ledger,
    rewriting_admit,
)
from tests.integration.s3_server import S3Server, running_s3

REF = ModelRef("acme", "fraud")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def publisher(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Publisher:
    return publishing.publisher(store, etcd, keys, published_by="ann")


@pytest.fixture
def ledger(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Ledger:
    return open_ledger(store, etcd, keys)


@pytest.fixture
def moves(ledger: Ledger) -> AliasMoves:
    return AliasMoves(ledger)


async def test_a_real_model_is_probed_and_published(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 3))
    data = lightgbm.Dataset(rows, rows[:, 0] * 2)
    booster = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 5)
    path = tmp_path / "model.txt"
    booster.save_model(path)
    facts = Facts(labels={"team": "risk"})
    manifest = await publishing.publisher(store, etcd, keys, probe).publish(path, REF, facts=facts)
    assert (manifest.runtime, manifest.version, manifest.labels) == (Runtime.LIGHTGBM, "1", {"team": "risk"})
    assert manifest.source_bytes == path.stat().st_size
    assert await store.get(artifact_path("acme", manifest.source)) == path.read_bytes()
    assert len(await store.get(artifact_path("acme", manifest.artifact))) == manifest.artifact_bytes
    assert len((await Library(store).read_schema("acme", manifest.schema)).features) == 3
    assert len(await store.get(artifact_path("acme", manifest.annotated))) == manifest.annotated_bytes
    assert manifest.annotated_bytes > manifest.artifact_bytes
    assert manifest.resident_bytes > 0
    record = await check_synced(store, etcd, keys, REF)
    assert record == ModelRecord(1, {"live": manifest.to_version()})


async def test_automatic_versions_count_up(publisher: Publisher, tmp_path: Path) -> None:
    published = [await publisher.publish(model_file(tmp_path, str(number)), REF) for number in range(11)]
    assert [manifest.version for manifest in published] == [str(number) for number in range(1, 12)]
    assert published[0].published_by == "ann"
    described = await publisher.library.describe(REF)
    assert [manifest.version for manifest in described.versions] == [str(number) for number in range(1, 12)]
    assert (described.record.revision, described.record.aliases) == (11, {"live": "11"})


async def test_the_same_again_is_no_error_and_no_change(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    path = model_file(tmp_path, "a")
    first = await publisher.publish(path, REF, version="v1")
    assert await publisher.publish(path, REF, version="v1") == first
    record = await check_synced(store, etcd, keys, REF)
    assert record.revision == 1


async def test_a_version_keeps_its_content(publisher: Publisher, tmp_path: Path) -> None:
    first = await publisher.publish(model_file(tmp_path, "a"), REF, version="v1")
    with pytest.raises(VersionExistsError, match="version v1 of model acme/fraud"):
        await publisher.publish(model_file(tmp_path, "b"), REF, version="v1")
    assert await publisher.library.resolve(REF) == first


async def test_a_version_without_alias_is_there_and_announced(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await publisher.publish(model_file(tmp_path, "b"), REF, aliases=())
    record = await check_synced(store, etcd, keys, REF)
    assert (record.revision, {a: v.version for a, v in record.aliases.items()}) == (2, {"live": "1"})
    assert (await publisher.library.resolve(REF, version="2")).version == "2"


async def test_aliases_move_and_others_stay(
    publisher: Publisher, moves: AliasMoves, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF, aliases=("live", "candidate"))
    await publisher.publish(model_file(tmp_path, "b"), REF, aliases=("candidate",))
    await moves.point(REF, "live", "2", expected="1")
    await moves.point(REF, "old", "1", expected="")
    record = await index_entry(etcd, keys, REF)
    assert record is not None
    assert {a: v.version for a, v in record.aliases.items()} == {"live": "2", "candidate": "2", "old": "1"}
    with pytest.raises(ConflictError, match="alias live of model acme/fraud is at 2, not 9"):
        await moves.point(REF, "live", "1", expected="9")
    await moves.point(REF, "live", "2", expected="1")  # repeated after its answer was lost
    with pytest.raises(ModelNotFoundError, match="no version '3'"):
        await moves.point(REF, "live", "3")


async def test_only_one_of_two_expectations_holds(publisher: Publisher, moves: AliasMoves, tmp_path: Path) -> None:
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF, aliases=())
    await moves.point(REF, "live", "1")
    moving = [moves.point(REF, "live", version, expected="1") for version in ("2", "3")]
    outcomes = await asyncio.gather(*moving, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(ConflictError) == 1


async def test_a_roll_back_goes_where_the_alias_was_when_it_is_made(
    publisher: Publisher, ledger: Ledger, moves: AliasMoves, tmp_path: Path
) -> None:
    """While it prepares, the alias moves on and back again: now it was at another version before."""
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF, aliases=())
    for version in ("1", "2"):
        await moves.point(REF, "live", version)
    away_and_back = ["3", "2"]

    async def prepare(_ref: ModelRef, _old: object, _new: object) -> None:
        while away_and_back:
            await moves.point(REF, "live", away_and_back.pop(0))

    record = await AliasMoves(ledger, prepare).roll_back(REF, "live")
    assert (record.aliases, record.before) == ({"live": "3"}, {"live": "2"})


@pytest.mark.parametrize("expected", [None, "2"])
async def test_two_who_roll_back_one_version_do_it_once(
    publisher: Publisher, ledger: Ledger, moves: AliasMoves, tmp_path: Path, expected: str | None
) -> None:
    for name in "ab":
        await publisher.publish(model_file(tmp_path, name), REF)
    both_began = asyncio.Barrier(2)

    async def prepare(_ref: ModelRef, _old: object, _new: object) -> None:
        await both_began.wait()

    rolling = [AliasMoves(ledger, prepare).roll_back(REF, "live", expected=expected) for _ in range(2)]
    outcomes = await asyncio.gather(*rolling, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(ConflictError) == 1
    record = await moves.roll_back(REF, "live", expected="1")
    assert (record.aliases, record.before) == ({"live": "2"}, {"live": "1"})
    with pytest.raises(ConflictError, match="alias live of model acme/fraud is at 2, not 9"):
        await moves.roll_back(REF, "live", expected="9")


@pytest.mark.parametrize("act", ["publish", "point", "roll_back", "remove"])
async def test_a_request_that_is_tried_again_tells_etcd_what_the_first_try_could_not(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path, act: str
) -> None:
    for name in "ab":
        await publisher.publish(model_file(tmp_path, name), REF)
    path = model_file(tmp_path, "c")
    nowhere = Etcd(["127.0.0.1:1"], timeout_s=0.2, retry_s=0.3)

    async def make(with_etcd: Etcd) -> object:
        moves, condition = AliasMoves(open_ledger(store, with_etcd, keys)), Condition("r")
        match act:
            case "publish":
                return await publishing.publisher(store, with_etcd, keys).publish(path, REF, request_id="r")
            case "point":
                return await moves.point(REF, "live", "1", condition)
            case "roll_back":
                return await moves.roll_back(REF, "live", condition)
        return await moves.remove(REF, "live", condition)

    with pytest.raises(EtcdUnavailableError, match="is stored"):
        await make(nowhere)
    await nowhere.aclose()
    await make(etcd)
    assert (await check_synced(store, etcd, keys, REF)).revision == 3


class RepeatingStore(ArtifactStore):
    """Its transport repeats every create, so that the caller is told that its own object is there already."""

    async def create(self, path: str, data: bytes) -> bool:
        await super().create(path, data)
        return await super().create(path, data)


async def test_who_finds_the_own_record_there_already_has_written_it(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    repeating = RepeatingStore(store._store, store.url)
    publisher = publishing.publisher(repeating, etcd, keys)
    published = [await publisher.publish(model_file(tmp_path, name), REF) for name in "ab"]
    assert [manifest.version for manifest in published] == ["1", "2"]
    rolled = await AliasMoves(open_ledger(repeating, etcd, keys)).roll_back(REF, "live")
    assert (rolled.revision, rolled.aliases) == (3, {"live": "1"})
    await check_synced(store, etcd, keys, REF)


async def test_a_request_is_made_once_whatever_was_made_since(
    publisher: Publisher, moves: AliasMoves, tmp_path: Path
) -> None:
    path = model_file(tmp_path, "a")
    first = await publisher.publish(path, REF, request_id="first")
    await publisher.publish(model_file(tmp_path, "b"), REF)
    rolled = await moves.roll_back(REF, "live", Condition("back"))
    assert rolled.aliases == {"live": "1"}
    moved = await moves.point(REF, "live", "2", Condition("on"))
    assert await publisher.publish(path, REF, request_id="first") == first
    assert await moves.roll_back(REF, "live", Condition("back")) == moved
    assert await moves.point(REF, "live", "2", Condition("on")) == moved
    with pytest.raises(VersionExistsError, match=r"request first published version 1 .* with other content"):
        await publisher.publish(model_file(tmp_path, "c"), REF, request_id="first")


async def test_what_is_not_there(publisher: Publisher, ledger: Ledger, moves: AliasMoves) -> None:
    asked = (publisher.library.describe(REF), publisher.library.resolve(REF), ledger.sync(REF))
    for asking in (*asked, moves.roll_back(REF, "live")):
        with pytest.raises(ModelNotFoundError, match="tenant 'acme' has no model 'fraud'"):
            await asking
    assert await publisher.library.list_versions(REF) == []
    assert await publisher.library.list_models("acme") == []
    assert await publisher.library.list_tenants() == []


async def test_an_unknown_alias(publisher: Publisher, tmp_path: Path) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    with pytest.raises(ModelNotFoundError, match="no alias 'canary'"):
        await publisher.library.resolve(REF, alias="canary")


async def test_files_that_are_no_models(publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x04.")
    (tmp_path / "large").write_bytes(b"\x08\x08\x12" + bytes(100))
    small = publishing.publisher(open_store(f"file://{tmp_path}/store"), etcd, keys, size_limit_bytes=100)
    for name in ("pickle", "large", "missing"):
        with pytest.raises(ArtifactRejectedError):
            await small.publish(tmp_path / name, REF)
    (tmp_path / "text").write_bytes(b"tree\nversion=v4\n")
    with pytest.raises(ArtifactRejectedError):
        await publishing.publisher(open_store(f"file://{tmp_path}/store"), etcd, keys, probe).publish(
            tmp_path / "text", REF, version="1"
        )
    assert await publisher.library.list_versions(REF) == []
    assert await publisher.library.list_registered(REF) == []
    assert await index_entry(etcd, keys, REF) is None


async def test_names_are_checked_before_anything_is_stored(
    publisher: Publisher, store: ArtifactStore, tmp_path: Path
) -> None:
    path = model_file(tmp_path, "a")
    with pytest.raises(InvalidRequestError, match="model"):
        await publisher.publish(path, ModelRef("acme", "../x"))
    with pytest.raises(InvalidRequestError, match="version"):
        await publisher.publish(path, REF, version="a/b")
    with pytest.raises(InvalidRequestError, match="version"):
        await publisher.publish(path, REF, version="")
    with pytest.raises(InvalidRequestError, match="alias"):
        await publisher.publish(path, REF, aliases=("live", "é"))
    with pytest.raises(InvalidRequestError, match="several names"):
        await publisher.publish(path, REF, aliases="live")
    assert await store.list_folders("tenants") == []


async def test_what_is_stored_is_what_was_admitted(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    """The file changes under the publisher's hands while it is being admitted."""
    path = model_file(tmp_path, "good")
    good, seen = path.read_bytes(), []

    async def replacing_admit(offer: Offer) -> Admitted:
        path.write_bytes(b"\x08\x08\x12evil")
        seen.append(offer.data)
        return await rewriting_admit(offer)

    manifest = await publishing.publisher(store, etcd, keys, replacing_admit).publish(path, REF)
    assert seen == [good]
    assert await store.get(artifact_path("acme", manifest.source)) == good
    assert await store.get(artifact_path("acme", manifest.artifact)) == good + b" rewritten"


async def test_a_slow_publisher_does_not_undo_a_newer_one(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    """It has read the alias record, then sleeps while another one publishes, then writes to etcd."""
    slow_may_write, slow_is_there = asyncio.Event(), asyncio.Event()

    class SlowEtcd(Etcd):
        async def compare_and_swap(
            self, key: bytes, value: bytes, expected_mod_revision: int, lease_id: int = 0
        ) -> Swap:
            slow_is_there.set()
            await slow_may_write.wait()
            return await super().compare_and_swap(key, value, expected_mod_revision, lease_id)

    slow_etcd = SlowEtcd([etcd.endpoints.current.address])
    slow_publisher = publishing.publisher(store, slow_etcd, keys)
    slow = asyncio.create_task(slow_publisher.publish(model_file(tmp_path, "slow"), REF))
    await slow_is_there.wait()
    await publisher.publish(model_file(tmp_path, "fast"), REF)
    slow_may_write.set()
    assert (await slow).version == "1"
    await slow_etcd.aclose()
    record = await check_synced(store, etcd, keys, REF)
    assert record.aliases["live"].version == "2"


async def test_an_entry_of_a_higher_revision_stays(
    publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    newer = ModelRecord(1000, {})
    await etcd.put(keys.model(REF), encode(newer))
    await publisher.publish(model_file(tmp_path, "a"), REF)
    assert await index_entry(etcd, keys, REF) == newer


async def test_a_damaged_entry_is_replaced(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    await etcd.put(keys.model(REF), b"rubbish")
    await publisher.publish(model_file(tmp_path, "a"), REF)
    await check_synced(store, etcd, keys, REF)


async def test_without_etcd_the_model_is_stored_and_the_error_says_how_to_finish(
    store: ArtifactStore, ledger: Ledger, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    nowhere = Etcd(["127.0.0.1:1"], timeout_s=0.2, retry_s=0.3)
    with pytest.raises(EtcdUnavailableError, match=r"version 1 of .* is stored.*scoremesh rebuild acme/fraud"):
        await publishing.publisher(store, nowhere, keys).publish(model_file(tmp_path, "a"), REF)
    await nowhere.aclose()
    assert await index_entry(etcd, keys, REF) is None
    assert (await ledger.sync(REF)) == ModelRecord(1, {"live": (await ledger.library.resolve(REF)).to_version()})
    await check_synced(store, etcd, keys, REF)


class BoomError(Exception):
    """The publisher dies here."""


class DyingStore(ArtifactStore):
    """Dies at its n-th create, before or after it has happened."""

    def __init__(self, store: ArtifactStore, creates: int, *, done: bool) -> None:
        super().__init__(store._store, store.url)
        self._creates, self._done = creates, done

    async def create(self, path: str, data: bytes) -> bool:
        self._creates -= 1
        if self._creates == 0:
            if self._done:
                await super().create(path, data)
            raise BoomError
        return await super().create(path, data)


class DyingEtcd(Etcd):
    """Dies at the compare-and-swap, before or after it has happened."""

    done = False

    async def compare_and_swap(self, key: bytes, value: bytes, expected_mod_revision: int, lease_id: int = 0) -> Swap:
        if self.done:
            await super().compare_and_swap(key, value, expected_mod_revision, lease_id)
        raise BoomError


STEPS = ["number", "source", "artifact", "schema", "manifest", "record", "etcd"]


class Way(NamedTuple):
    """How a version gets its name: from the publisher, from the next free number, or by a request id."""

    version: str | None = None
    request_id: str = ""


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", [Way("v2"), Way(), Way(request_id="r")], ids=["named", "numbered", "requested"])
async def test_dying_at_any_step_leaves_nothing_half_and_a_second_run_finishes(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path, step: str, done: bool, way: Way
) -> None:
    await publisher.publish(model_file(tmp_path, "old"), REF, version="1")
    dying_etcd = DyingEtcd([etcd.endpoints.current.address])
    dying_etcd.done = done
    dying_store = DyingStore(store, 0 if step == "etcd" else STEPS.index(step) + 1, done=done)
    dying = publishing.publisher(dying_store, dying_etcd if step == "etcd" else etcd, keys, rewriting_admit)
    path = model_file(tmp_path, "new")
    with pytest.raises(BoomError):
        await dying.publish(path, REF, version=way.version, request_id=way.request_id)
    await dying_etcd.aclose()
    await check_published(store, etcd, keys, REF)
    record = await index_entry(etcd, keys, REF)
    assert record is not None
    assert (record.aliases["live"].version != "1") == (step == "etcd" and done)
    finished = await publisher.publish(path, REF, version=way.version, request_id=way.request_id)
    record = await check_synced(store, etcd, keys, REF)
    assert record.aliases == {"live": finished.to_version()}
    if way != Way():
        assert await publisher.library.list_versions(REF) == ["1", finished.version]
    if way.request_id and (step != "number" or done):
        assert finished.version == "2"


KILLED = """
import asyncio, json, os, signal, sys
from pathlib import Path
from registry.artifacts import ArtifactStore
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.store_urls import open_store
from tests.integration.publishing import publisher

arguments = json.loads(sys.argv[1])

class KilledStore(ArtifactStore):
    left = arguments["creates"]
    async def create(self, path, data):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return await super().create(path, data)

async def main():
    store = open_store(arguments["store"])
    etcd = Etcd([arguments["endpoint"]])
    killed = publisher(KilledStore(store._store, store.url), etcd, Keys(arguments["cluster"]))
    for number in range(1000):
        await killed.publish(Path(arguments["path"]), ModelRef("acme", "fraud"), version=f"v{number}")
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("creates", [1, 2, 3, 4, 5, None])
async def test_kill_9(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path, creates: int | None
) -> None:
    """A publisher in a process of its own, killed between two steps or, without a number, from outside at any time."""
    path = model_file(tmp_path, "a")
    arguments = {
        "store": store.url,
        "endpoint": etcd.endpoints.current.address,
        "cluster": keys.models_prefix.decode().split("/")[2],
        "path": str(path),
        "creates": -1 if creates is None else creates,
    }
    lines = await asyncio.to_thread(_run_until_killed, json.dumps(arguments), 5 if creates is None else None)
    await check_published(store, etcd, keys, REF)
    last = f"v{len(lines)}"
    finished = await publisher.publish(path, REF, version=last)
    record = await check_synced(store, etcd, keys, REF)
    assert record.aliases == {"live": finished.to_version()}
    assert await publisher.library.list_versions(REF) == [f"v{number}" for number in range(len(lines) + 1)]


def _run_until_killed(arguments: str, kill_after_lines: int | None) -> list[bytes]:
    lines = []
    with subprocess.Popen([sys.executable, "-c", KILLED, arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if len(lines) == kill_after_lines:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return lines


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        # SeaweedFS makes a bucket when something is first written to it.
        asyncio.run(open_store(server.url("models")).create("first", b""))
        yield server


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that several clients open."""
    return request.getfixturevalue("s3").url("models", tmp_path.name) if request.param == "s3" else f"file://{tmp_path}"


async def test_many_publishers_at_once(url: str, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    """Each publisher opens the store anew, as separate processes would."""
    publishers = [publishing.publisher(open_store(url), etcd, keys) for _ in range(12)]
    paths = [model_file(tmp_path, f"p{number}") for number in range(12)]
    published = await asyncio.gather(*(p.publish(path, REF) for p, path in zip(publishers, paths, strict=True)))
    assert sorted(int(manifest.version) for manifest in published) == list(range(1, 13))
    store = open_store(url)
    record = await check_synced(store, etcd, keys, REF)
    assert record.revision == 12
    names = await store.list_names("tenants/acme/models/fraud/aliases")
    assert names == [f"{number:020d}.json" for number in range(1, 13)]
    assert len(await Library(store).list_versions(REF)) == 12
