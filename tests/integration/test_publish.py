"""Publishing against a real etcd and a real file store: order, races, and death at every step."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from registry.artifacts import ArtifactStore, open_store
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
from registry.library import Library
from registry.model import ModelRecord, ModelRef, Runtime
from registry.probing import Probed, probe
from registry.publish import Publisher
from tests.integration.publishing import check_published, check_synced, constant_prober, index_entry, model_file
from tests.integration.s3_server import S3Server, running_s3

REF = ModelRef("acme", "fraud")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def publisher(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Publisher:
    return Publisher(store, etcd, keys, constant_prober, published_by="ann")


async def test_a_real_model_is_probed_and_published(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 3))
    data = lightgbm.Dataset(rows, rows[:, 0] * 2)
    booster = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 5)
    path = tmp_path / "model.txt"
    booster.save_model(path)
    manifest = await Publisher(store, etcd, keys, probe).publish(path, REF, labels={"team": "risk"})
    assert (manifest.runtime, manifest.version, manifest.labels) == (Runtime.LIGHTGBM, "1", {"team": "risk"})
    assert manifest.artifact_bytes == path.stat().st_size
    assert await store.get(manifest.uri) == path.read_bytes()
    assert len(manifest.schema.features) == 3
    assert manifest.resident_bytes > 0
    record = await check_synced(store, etcd, keys, REF)
    assert record == ModelRecord(1, {"live": manifest.to_version()})


async def test_automatic_versions_count_up(publisher: Publisher, tmp_path: Path) -> None:
    published = [await publisher.publish(model_file(tmp_path, str(number)), REF) for number in range(11)]
    assert [manifest.version for manifest in published] == [str(number) for number in range(1, 12)]
    assert published[0].published_by == "ann"
    described = await publisher.library.describe(REF)
    assert [manifest.version for manifest in described.versions] == [str(number) for number in range(1, 12)]
    assert (described.revision, described.aliases) == (11, {"live": "11"})


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


async def test_aliases_move_and_others_stay(publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF, aliases=("live", "candidate"))
    await publisher.publish(model_file(tmp_path, "b"), REF, aliases=("candidate",))
    await publisher.set_alias(REF, "live", "2", expected="1")
    await publisher.set_alias(REF, "old", "1", expected="")
    record = await index_entry(etcd, keys, REF)
    assert record is not None
    assert {a: v.version for a, v in record.aliases.items()} == {"live": "2", "candidate": "2", "old": "1"}
    with pytest.raises(ConflictError, match="alias live of model acme/fraud is at 2, not 9"):
        await publisher.set_alias(REF, "live", "1", expected="9")
    await publisher.set_alias(REF, "live", "2", expected="1")  # repeated after its answer was lost
    with pytest.raises(ModelNotFoundError, match="no version '3'"):
        await publisher.set_alias(REF, "live", "3")


async def test_only_one_of_two_expectations_holds(publisher: Publisher, tmp_path: Path) -> None:
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF, aliases=())
    await publisher.set_alias(REF, "live", "1")
    moves = [publisher.set_alias(REF, "live", version, expected="1") for version in ("2", "3")]
    outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(ConflictError) == 1


async def test_what_is_not_there(publisher: Publisher) -> None:
    for asking in (publisher.library.describe(REF), publisher.library.resolve(REF), publisher.sync(REF)):
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
    (tmp_path / "text").write_bytes(b"tree\nversion=v4\n")
    (tmp_path / "large").write_bytes(b"\x08\x08\x12" + bytes(100))
    small = Publisher(open_store(f"file://{tmp_path}/store"), etcd, keys, constant_prober, size_limit_bytes=100)
    for name in ("pickle", "text", "large", "missing"):
        with pytest.raises(ArtifactRejectedError):
            await small.publish(tmp_path / name, REF)
    assert await publisher.library.list_versions(REF) == []
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
    assert await store.list_folders("artifacts/sha256") == []


async def test_what_is_stored_is_what_was_probed(store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    """The file changes under the publisher's hands while it is being probed."""
    path = model_file(tmp_path, "good")
    good, seen = path.read_bytes(), []

    async def replacing_prober(copy: Path, runtime: Runtime) -> Probed:
        path.write_bytes(b"\x08\x08\x12evil")
        seen.append(copy.read_bytes())  # noqa: ASYNC240
        return await constant_prober(copy, runtime)

    manifest = await Publisher(store, etcd, keys, replacing_prober).publish(path, REF)
    assert seen == [good]
    assert await store.get(manifest.uri) == good


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
    slow = asyncio.create_task(
        Publisher(store, slow_etcd, keys, constant_prober).publish(model_file(tmp_path, "slow"), REF)
    )
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
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    nowhere = Etcd(["127.0.0.1:1"], timeout_s=0.2, retry_s=0.3)
    with pytest.raises(EtcdUnavailableError, match=r"version 1 of .* is stored.*scoremesh sync acme/fraud"):
        await Publisher(store, nowhere, keys, constant_prober).publish(model_file(tmp_path, "a"), REF)
    await nowhere.aclose()
    assert await index_entry(etcd, keys, REF) is None
    assert (await publisher.sync(REF)).revision == 1
    await check_synced(store, etcd, keys, REF)


async def test_an_etcd_that_lost_everything_is_rebuilt(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    refs = [ModelRef(f"t{number % 3}", f"m{number}") for number in range(30)]
    for ref in refs:
        await publisher.publish(model_file(tmp_path, "a"), ref)
    before = await etcd.list_prefix(keys.models_prefix)
    await etcd.delete_prefix(keys.models_prefix)
    assert await publisher.sync_all() == 30
    after = await etcd.list_prefix(keys.models_prefix)
    assert [(kv.key, kv.value) for kv in after.kvs] == [(kv.key, kv.value) for kv in before.kvs]
    assert await publisher.library.list_tenants() == ["t0", "t1", "t2"]
    assert await publisher.library.list_models("t0") == sorted(ref.model for ref in refs if ref.tenant == "t0")


async def test_rebuilding_without_etcd_fails_as_one_error(
    publisher: Publisher, store: ArtifactStore, keys: Keys, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "a"), REF)
    nowhere = Etcd(["127.0.0.1:1"], timeout_s=0.2, retry_s=0.3)
    with pytest.raises(EtcdUnavailableError):
        await Publisher(store, nowhere, keys, constant_prober).sync_all()
    await nowhere.aclose()


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


STEPS = ["artifact", "manifest", "aliases", "etcd"]


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("version", ["v2", None], ids=["named", "numbered"])
async def test_dying_at_any_step_leaves_nothing_half_and_a_second_run_finishes(
    publisher: Publisher,
    store: ArtifactStore,
    etcd: Etcd,
    keys: Keys,
    tmp_path: Path,
    step: str,
    done: bool,
    version: str | None,
) -> None:
    await publisher.publish(model_file(tmp_path, "old"), REF, version="1")
    dying_etcd = DyingEtcd([etcd.endpoints.current.address])
    dying_etcd.done = done
    dying_store = DyingStore(store, STEPS.index(step) + 1, done=done)
    dying = Publisher(dying_store, dying_etcd if step == "etcd" else etcd, keys, constant_prober)
    path = model_file(tmp_path, "new")
    with pytest.raises(BoomError):
        await dying.publish(path, REF, version=version)
    await dying_etcd.aclose()
    await check_published(store, etcd, keys, REF)
    record = await index_entry(etcd, keys, REF)
    assert record is not None
    assert (record.aliases["live"].version != "1") == (step == "etcd" and done)
    finished = await publisher.publish(path, REF, version=version)
    record = await check_synced(store, etcd, keys, REF)
    assert record.aliases == {"live": finished.to_version()}
    if version is not None:
        assert await publisher.library.list_versions(REF) == ["1", "v2"]


KILLED = """
import asyncio, json, os, signal, sys
from pathlib import Path
from registry.artifacts import ArtifactStore, open_store
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.publish import Publisher
from tests.integration.publishing import constant_prober

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
    publisher = Publisher(KilledStore(store._store, store.url), etcd, Keys(arguments["cluster"]), constant_prober)
    for number in range(1000):
        await publisher.publish(Path(arguments["path"]), ModelRef("acme", "fraud"), version=f"v{number}")
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("creates", [1, 2, 3, None])
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
        yield server


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that several clients open."""
    return request.getfixturevalue("s3").url("models", tmp_path.name) if request.param == "s3" else f"file://{tmp_path}"


async def test_many_publishers_at_once(url: str, etcd: Etcd, keys: Keys, tmp_path: Path) -> None:
    """Each publisher opens the store anew, as separate processes would."""
    publishers = [Publisher(open_store(url), etcd, keys, constant_prober) for _ in range(12)]
    paths = [model_file(tmp_path, f"p{number}") for number in range(12)]
    published = await asyncio.gather(*(p.publish(path, REF) for p, path in zip(publishers, paths, strict=True)))
    assert sorted(int(manifest.version) for manifest in published) == list(range(1, 13))
    store = open_store(url)
    record = await check_synced(store, etcd, keys, REF)
    assert record.revision == 12
    names = await store.list_names("tenants/acme/models/fraud/aliases")
    assert names == [f"{number:020d}.json" for number in range(1, 13)]
    assert len(await Library(store).list_versions(REF)) == 12
