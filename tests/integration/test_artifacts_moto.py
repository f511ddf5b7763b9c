"""The object store against moto's S3, a second S3 server beside that of the integration tests. It lives in this
process; its bucket is made by a request of S3's own, as the store makes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from registry.artifacts import ArtifactStore
from registry.errors import InvalidRequestError, ObjectMissingError, StoreUnavailableError
from registry.store_urls import open_store

_SETTINGS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without a line in the log for each request."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with _quiet("werkzeug"), pytest.MonkeyPatch.context() as patch:
        for name, value in _SETTINGS.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        server.start()
        host, port = server.get_host_and_port()
        _ask(f"http://{host}:{port}", "PUT", "/models")
        yield f"http://{host}:{port}"
        server.stop()
        assert server._server is not None
        server._server.server_close()


def _check_credentials(endpoint: str, after: bytes) -> None:
    """Let the server check who asks, after so many requests. It knows nobody then."""
    _ask(endpoint, "POST", "/moto-api/reset-auth", after)


def _ask(endpoint: str, method: str, path: str, body: bytes = b"") -> None:
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request(method, path, body)
        assert connection.getresponse().status == 200


@pytest.fixture
def store(endpoint: str, request: pytest.FixtureRequest) -> ArtifactStore:
    return open_store(f"s3://models/{request.node.name}?endpoint={endpoint}", timeout_s=10)


async def test_the_second_creator_changes_nothing(store: ArtifactStore) -> None:
    assert await store.create("a/b/c.bin", b"first")
    assert not await store.create("a/b/c.bin", b"second")
    assert await store.get("a/b/c.bin") == b"first"


async def test_one_of_many_creators_wins(store: ArtifactStore) -> None:
    won = await asyncio.gather(*(store.create("race", b"%d" % number) for number in range(8)))
    assert won.count(True) == 1
    assert await store.get("race") == b"%d" % won.index(True)


async def test_what_is_missing(store: ArtifactStore) -> None:
    await store.create("there", b"12345")
    with pytest.raises(ObjectMissingError, match="object storage has no object no/such"):
        await store.get("no/such")
    assert await store.get_many(["no/such", "there"]) == [None, b"12345"]
    assert [await store.size_of(path) for path in ("no/such", "there")] == [None, 5]
    assert [await store.exists(path) for path in ("no/such", "there")] == [False, True]
    await store.delete("no/such")


async def test_listings(store: ArtifactStore) -> None:
    paths = ["t/b/1.json", "t/a/1.json", "t/a/2.json", "t/ab/9.json", "t/top.json", "t/a/deep/3.json"]
    for path in paths:
        await store.create(path, b"{}")
    assert await store.list_names("t/a") == ["1.json", "2.json"]
    assert await store.list_names("t") == ["top.json"]
    assert await store.list_folders("t") == ["a", "ab", "b"]
    assert await store.list_names("nothing") == await store.list_folders("nothing") == []
    found = await store.list_all("t/a")
    assert sorted(found) == [("t/a/1.json", 2), ("t/a/2.json", 2), ("t/a/deep/3.json", 2)]
    assert await store.has_objects("t/a/deep")
    assert not await store.has_objects("t/a/dee")


async def test_listing_of_more_than_one_page(store: ArtifactStore) -> None:
    names = [f"{number:04d}" for number in range(1010)]
    for begin in range(0, len(names), 101):
        await asyncio.gather(*(store.create(f"many/{name}", b"") for name in names[begin : begin + 101]))
    assert await store.list_names("many") == names
    assert len(await store.list_all("many")) == len(names)


async def test_deleting_many(store: ArtifactStore) -> None:
    for number in range(70):
        await store.create(f"x/{number}", b"1")
    await store.delete_many([f"x/{number}" for number in range(60)] + ["x/none"])
    assert sorted(await store.list_names("x")) == sorted(str(number) for number in range(60, 70))
    assert await store.create("x/0", b"anew")


async def test_deleting_a_folder(store: ArtifactStore) -> None:
    for path in ("t/acme/1", "t/acme/deep/2", "t/acme-2/3"):
        await store.create(path, path.encode())
    assert sorted(await store.delete_folder("t/acme")) == [("t/acme/1", 8), ("t/acme/deep/2", 13)]
    assert [path for path, _ in await store.list_all("t")] == ["t/acme-2/3"]
    assert await store.delete_folder("t/acme") == []


async def test_prefixes_are_apart(endpoint: str) -> None:
    one, two = (open_store(f"s3://models/apart/{name}?endpoint={endpoint}") for name in ("one", "one-more"))
    await one.create("x", b"1")
    assert not await two.exists("x")
    assert await two.list_all("") == []


async def test_a_wrong_bucket(endpoint: str) -> None:
    store = open_store(f"s3://no-such-bucket/x?endpoint={endpoint}", timeout_s=10)
    for attempt in (store.create("x", b""), store.get("x"), store.get_many(["x"]), store.list_names("x")):
        with pytest.raises(StoreUnavailableError, match="x: is its bucket or directory there"):
            await attempt
    with pytest.raises(StoreUnavailableError, match="can't list x"):
        await store.list_all("x")


async def test_credentials_that_the_server_does_not_know(store: ArtifactStore, endpoint: str) -> None:
    await store.create("x", b"1")
    await asyncio.to_thread(_check_credentials, endpoint, b"0")
    try:
        for attempt in (store.create("y", b""), store.get("x"), store.get_many(["x"]), store.list_names("x")):
            with pytest.raises(StoreUnavailableError, match=r"object storage refused to .*: check its credentials"):
                await attempt
    finally:
        await asyncio.to_thread(_check_credentials, endpoint, b"inf")
    assert await store.get("x") == b"1"


async def test_paths_that_leave_the_store(store: ArtifactStore) -> None:
    for path in ("a/../../b", "a//b"):
        with pytest.raises(InvalidRequestError):
            await store.create(path, b"")
