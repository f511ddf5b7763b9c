"""Publishing many files at once: what is skipped, what fails alone, what stops all, and where the files come from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.bounded import for_each, map_all
from registry.bulk_publish import Done, Item, Outcome, Summary, publish_item, publish_many, read_items
from registry.errors import ArtifactRejectedError, EtcdUnavailableError, InvalidRequestError, StoreUnavailableError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.offer import Admitted, Offer
from registry.store_urls import open_store
from tests.integration.publishing import check_synced, constant_admit, index_entry, model_file, open_ledger, publisher

HEAD = b"\x08\x08\x12\x04test"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """40 files of 4 tenants."""
    for number in range(40):
        path = tmp_path / "tree" / f"tenant{number % 4}" / f"model{number}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(HEAD + b"%d" % number)
    (tmp_path / "tree" / "README").write_text("not a tenant")
    (tmp_path / "tree" / "tenant0" / "notes.md").write_text("not a model")
    return tmp_path / "tree"


def counts(summary: Summary) -> tuple[int, int, int]:
    return summary.published, summary.unchanged, summary.failed


async def test_a_tree_is_published_once(store: ArtifactStore, etcd: Etcd, keys: Keys, tree: Path) -> None:
    mine = publisher(store, etcd, keys)
    done: list[Done] = []
    assert counts(await publish_many(partial(publish_item, mine), read_items(tree), on_done=done.append)) == (40, 0, 0)
    assert {each.item.ref for each in done} == {ModelRef(f"tenant{n % 4}", f"model{n}") for n in range(40)}
    for each in done:
        await check_synced(store, etcd, keys, each.item.ref)
    assert counts(await publish_many(partial(publish_item, mine), read_items(tree))) == (0, 40, 0)
    (tree / "tenant1" / "model1.onnx").write_bytes(HEAD + b"retrained")
    assert counts(await publish_many(partial(publish_item, mine), read_items(tree))) == (1, 39, 0)
    assert (await check_synced(store, etcd, keys, ModelRef("tenant1", "model1"))).aliases["live"].version == "2"
    assert await mine.library.list_versions(ModelRef("tenant1", "model5")) == ["1"]


async def test_content_that_was_live_before_is_published_again(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    ref = ModelRef("acme", "fraud")
    mine = publisher(store, etcd, keys)
    for content, version in (("a", "1"), ("b", "2"), ("a", "3"), ("a", "3")):
        assert (await publish_many(partial(publish_item, mine), [Item(model_file(tmp_path, content), ref)])).failed == 0
        assert (await check_synced(store, etcd, keys, ref)).aliases["live"].version == version
    await AliasMoves(mine.ledger).roll_back(ref, "live")
    assert counts(await publish_many(partial(publish_item, mine), [Item(model_file(tmp_path, "a"), ref)])) == (1, 0, 0)
    assert (await check_synced(store, etcd, keys, ref)).aliases["live"].version == "4", "3 was taken back by somebody"


async def test_one_that_fails_is_named_and_the_rest_goes_on(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tree: Path
) -> None:
    (tree / "tenant2" / "model2.onnx").write_bytes(b"\x80 a pickle")
    (tree / "tenant2" / "a b.onnx").write_bytes(HEAD)

    async def admit(offer: Offer) -> Admitted:
        if offer.data.endswith(b"17"):
            raise ArtifactRejectedError("the process crashed with SIGSEGV while loading the model")
        return await constant_admit(offer)

    items = [*read_items(tree), Item(tree / "gone.onnx", ModelRef("tenant0", "gone"))]
    summary = await publish_many(partial(publish_item, publisher(store, etcd, keys, admit)), items)
    assert counts(summary) == (38, 0, 4)
    why = {failure.item.path.name: failure.why for failure in summary.failures}
    assert "a Python pickle" in why["model2.onnx"]
    assert "SIGSEGV" in why["model17.onnx"]
    assert "not a valid name" in why["a b.onnx"]
    assert "can't read" in why["gone.onnx"]
    assert {failure.outcome for failure in summary.failures} == {Outcome.FAILED}


class DyingStore(ArtifactStore):
    """Answers nothing after the first `count` writes."""

    def __init__(self, store: ArtifactStore, count: int) -> None:
        super().__init__(store._store, store.url)
        self._left = count

    async def create(self, path: str, data: bytes) -> bool:
        self._left -= 1
        if self._left < 0:
            raise StoreUnavailableError("object storage is gone")
        return await super().create(path, data)


async def test_a_version_that_was_begun_is_finished(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    """The store dies at each write of a publication; whoever runs it again takes up the same number."""
    for count in range(6):
        ref = ModelRef("acme", f"model{count}")
        items = [Item(model_file(tmp_path, f"content{count}"), ref)]
        dying = publisher(DyingStore(store, count), etcd, keys)
        died = (await publish_many(partial(publish_item, dying), items)).failed
        assert counts(await publish_many(partial(publish_item, publisher(store, etcd, keys)), items)) == (
            died,
            1 - died,
            0,
        )
        assert (await check_synced(store, etcd, keys, ref)).aliases["live"].version == "1"
    assert not died, "a publication has no more writes"


async def test_what_is_live_but_not_yet_in_etcd_is_told(
    store: ArtifactStore, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    ref = ModelRef("acme", "fraud")
    items = [Item(model_file(tmp_path, "a"), ref)]
    await publish_many(partial(publish_item, publisher(store, etcd, keys)), items)
    await etcd.delete(keys.model(ref))
    assert counts(await publish_many(partial(publish_item, publisher(store, etcd, keys)), items)) == (0, 1, 0)
    assert await index_entry(etcd, keys, ref) == await open_ledger(store, etcd, keys).library.index_entry(ref)


async def test_without_etcd_it_ends_early(store: ArtifactStore, keys: Keys, tree: Path) -> None:
    nobody = Etcd(["127.0.0.1:1"], retry_s=0.2)
    done: list[Done] = []
    try:
        mine = publisher(store, nobody, keys)
        with pytest.raises(EtcdUnavailableError, match="is stored, but not yet in etcd"):
            await publish_many(partial(publish_item, mine), read_items(tree), 4, done.append)
    finally:
        await nobody.aclose()
    assert len(done) == 19


def test_a_list_of_files(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"path": "a.txt", "tenant": "acme", "model": "fraud"},
        {
            "path": "/b.onnx",
            "tenant": "acme",
            "model": "risk",
            "version": "7",
            "labels": {"team": "x"},
            "request_id": "r",
        },
    ]
    path = tmp_path / "models.jsonl"
    path.write_text("\n".join([json.dumps(line) for line in lines]) + "\n\n")
    first, second = read_items(path)
    assert first == Item(tmp_path / "a.txt", ModelRef("acme", "fraud"))
    assert (second.path, second.ref, second.version) == (Path("/b.onnx"), ModelRef("acme", "risk"), "7")
    assert second.facts.labels == {"team": "x"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"path": "a.txt", "tenant": "acme", "model": "m"}\n{"path": "b.txt"}', "line 2: .*tenant"),
        ('{"path": "a.txt", "tenant": "acme", "model": "m", "labls": {}}', "line 1: .*labls"),
        ("\n", "names no model"),
        (None, "can't read"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, content: str | None, match: str) -> None:
    path = tmp_path / "models.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequestError, match=match):
        read_items(path)


def test_a_directory_without_models(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"has no <tenant>/<model>\.txt"):
        read_items(tmp_path)


async def test_so_many_at_once_and_not_more() -> None:
    under_way: set[int] = set()
    most = taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken = number
            yield number

    async def work(number: int) -> int:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        assert taken - number < 5, "no item is taken before there is room for it"
        await asyncio.sleep(0)
        under_way.discard(number)
        return number * 2

    assert await map_all(numbers(), work, 5) == [number * 2 for number in range(50)]
    assert most == 5


async def test_the_first_failure_ends_all_and_is_raised_as_it_is() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        if number == 3:
            raise StoreUnavailableError("gone")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(StoreUnavailableError):
        await for_each(range(100), work, 5)
    assert sorted(ended) == [0, 1, 2, 4]
