"""The object store, on a directory and on a real S3 server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.etcd_server import free_port
from registry.artifacts import ArtifactStore
from registry.errors import (
    InvalidRequestError,
    ObjectMissingError,
    StoreUnavailableError,
)
from registry.store_urls import open_store
from tests.integration.s3_server import S3Server, running_s3

MIB = 1 << 20


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/new/store")
    server: S3Server = request.getfixturevalue("s3")
    return open_store(server.url("ready", tmp_path.name))


async def test_what_was_created_is_read(store: ArtifactStore) -> None:
    data = os.urandom(3 * MIB)
    assert await store.create("a/b/c.bin", data)
    assert await store.get("a/b/c.bin") == data
    assert await store.create("empty", b"")
    assert await store.get("empty") == b""


async def test_one_of_many_creators_wins_and_its_bytes_stay(store: ArtifactStore) -> None:
    won = await asyncio.gather(*(store.create("race", b"%d" % number * 1000) for number in range(16)))
    assert won.count(True) == 1
    assert await store.get("race") == b"%d" % won.index(True) * 1000


async def test_missing_object(store: ArtifactStore) -> None:
    with pytest.raises(ObjectMissingError, match="no/such"):
        await store.get("no/such")
    await store.delete("no/such")


async def test_deleted_object_is_gone_and_may_be_created_anew(store: ArtifactStore) -> None:
    await store.create("x", b"1")
    await store.delete("x")
    with pytest.raises(ObjectMissingError):
        await store.get("x")
    assert await store.create("x", b"2")


async def test_listing_one_level(store: ArtifactStore) -> None:
    for path in ("t/b/1.json", "t/a/1.json", "t/a/2.json", "t/ab/9.json", "t/top.json"):
        await store.create(path, b"{}")
    assert await store.list_names("t/a") == ["1.json", "2.json"]
    assert await store.list_names("t") == ["top.json"]
    assert await store.list_folders("t") == ["a", "ab", "b"]
    assert await store.list_names("nothing") == []
    assert await store.list_folders("nothing") == []


async def test_listing_of_more_than_one_page(store: ArtifactStore) -> None:
    for start in range(0, 1100, 100):
        await asyncio.gather(*(store.create(f"many/{start + i:06d}", b"") for i in range(100)))
    assert await store.list_names("many") == [f"{number:06d}" for number in range(1100)]


@pytest.mark.parametrize("path", ["a/../../b", "a//b"])
async def test_paths_that_leave_the_store_are_refused(store: ArtifactStore, path: str) -> None:
    with pytest.raises(InvalidRequestError):
        await store.get(path)


async def test_a_cancelled_create_leaves_all_or_nothing(store: ArtifactStore) -> None:
    data = os.urandom(8 * MIB)
    for number in range(8):
        creating = asyncio.ensure_future(store.create(f"cancelled/{number}", data))
        for _ in range(number * 3):
            await asyncio.sleep(0)
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
    for number in range(8):
        await store.create(f"cancelled/{number}", data)
        assert await store.get(f"cancelled/{number}") == data


async def test_a_store_that_is_gone_is_unavailable(s3: S3Server) -> None:
    store = open_store(f"s3://tests/x?endpoint=http://127.0.0.1:{free_port()}", timeout_s=2, retries=1)
    for attempt in (store.get("x"), store.create("x", b""), store.list_names("x"), store.delete("x")):
        with pytest.raises(StoreUnavailableError, match="x; see the log"):
            await attempt


async def test_a_store_that_says_nothing_is_unavailable(s3: S3Server) -> None:
    async def keep_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _reader.read()
        finally:
            writer.close()

    async with await asyncio.start_server(keep_silent, "127.0.0.1", 0) as server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        store = open_store(f"s3://tests/x?endpoint={endpoint}", timeout_s=0.3, retries=1)
        with pytest.raises(StoreUnavailableError):
            await store.get("x")


async def test_wrong_credentials_are_named(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailableError, match="credentials"):
        await open_store(s3.url("tests")).get("x")


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="can't create"):
        open_store(f"file://{tmp_path}/file/store")


def test_spaces_in_a_directory(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/a%20b")
    assert (tmp_path / "a b").is_dir()


WRITER = """
import asyncio, sys
from registry.store_urls import open_store
async def main():
    store = open_store(sys.argv[1])
    data = bytes(64 << 20)
    print("go", flush=True)
    for number in range(1000):
        await store.create(f"big/{number}", data)
asyncio.run(main())
"""


@pytest.mark.parametrize("kill_at_bytes", [1, 20 * MIB, 150 * MIB])
def test_a_killed_writer_leaves_no_part_of_an_object(tmp_path: Path, kill_at_bytes: int) -> None:
    """Killed while the bytes go to disk: whatever is under a final name is whole, and the name can be used again."""
    url = f"file://{tmp_path}/store"
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE) as writer:
        folder = tmp_path / "store" / "big"
        while _bytes_in(folder) < kill_at_bytes:
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    asyncio.run(_check_whole(open_store(url)))


async def _check_whole(store: ArtifactStore) -> None:
    whole = await store.list_names("big")
    for name in whole:
        assert len(await store.get(f"big/{name}")) == 64 * MIB
    assert all(name.isdecimal() for name in whole)
    unfinished = f"big/{len(whole)}"
    assert await store.create(unfinished, b"new")
    assert await store.get(unfinished) == b"new"


def _bytes_in(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0
