"""Reading objects from a real S3 server over a bad network, and from a server that answers badly."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore
from registry.errors import ObjectMissingError, StoreUnavailableError
from registry.store_reads import LARGE_BYTES, PIECE_BYTES, pieces_of
from registry.store_urls import open_store
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.integration.s3_server import S3Server, running_s3

SIZE = 5 * PIECE_BYTES + 12_345
DATA = os.urandom(SIZE)
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        assert asyncio.run(open_store(server.url("ready")).create("large", DATA))
        assert asyncio.run(open_store(server.url("ready")).create("small", DATA[:5000]))
        yield server


@pytest.fixture
async def proxy(s3: S3Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(f"127.0.0.1:{s3.port}") as proxy:
        yield proxy


def store_through(proxy: FaultProxy, *, timeout_s: float = 20.0, retries: int = 2) -> ArtifactStore:
    return open_store(f"s3://ready?endpoint=http://{proxy.address}", timeout_s=timeout_s, retries=retries)


def same(found: bytes) -> bool:
    return sha256(found).digest() == sha256(DATA).digest()


@pytest.mark.parametrize("said", [SIZE, 0, SIZE - 1, SIZE + PIECE_BYTES, LARGE_BYTES])
async def test_all_bytes_come_whatever_size_was_said(s3: S3Server, said: int) -> None:
    assert same(await open_store(s3.url("ready")).get("large", said))


@pytest.mark.parametrize("said", [SIZE, 0, SIZE - 1, SIZE + PIECE_BYTES])
async def test_a_directory_gives_them_too(tmp_path: Path, said: int) -> None:
    store = open_store(f"file://{tmp_path}/store")
    await store.create("large", DATA)
    assert same(await store.get("large", said))


async def test_large_objects_come_over_several_connections_and_small_ones_over_one(proxy: FaultProxy) -> None:
    store = store_through(proxy)
    assert await store.get("small", 5000) == DATA[:5000]
    assert proxy.accepted == 1
    assert same(await store.get("large", SIZE))
    assert proxy.accepted > 2


@pytest.mark.parametrize("reset_after", [0, 100, 30_000, PIECE_BYTES - 1000])
async def test_connections_that_are_reset_mid_body_cost_only_their_piece(proxy: FaultProxy, reset_after: int) -> None:
    proxy.down.reset_after, proxy.down.most_resets = reset_after, 3
    assert same(await store_through(proxy, retries=4).get("large", SIZE))
    assert proxy.down.resets == 3


async def test_a_small_object_survives_a_cut_too(proxy: FaultProxy) -> None:
    proxy.down.reset_after, proxy.down.most_resets = 2000, 1
    assert await store_through(proxy).get("small") == DATA[:5000]
    assert proxy.down.resets == 1


async def test_a_network_that_never_lets_a_piece_through_is_given_up(proxy: FaultProxy) -> None:
    proxy.down.reset_after = 10_000
    with pytest.raises(StoreUnavailableError, match="large; see the log"):
        await store_through(proxy, retries=1).get("large", SIZE)
    assert proxy.down.resets <= 2 * len(pieces_of(SIZE))


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_silent_connection_is_left_after_its_time(proxy: FaultProxy, direction: str) -> None:
    getattr(proxy, direction).dropping = True
    store = store_through(proxy, timeout_s=0.3, retries=1)
    for path, size in (("small", 0), ("large", SIZE)):
        with pytest.raises(StoreUnavailableError):
            await store.get(path, size)
    getattr(proxy, direction).dropping = False
    await proxy.reset_all()
    assert same(await store_through(proxy).get("large", SIZE))


async def test_a_short_silence_is_outlived(proxy: FaultProxy, wait_until: WaitUntil) -> None:
    proxy.down.dropping = True
    reading = asyncio.create_task(store_through(proxy, timeout_s=3, retries=5).get("large", SIZE))
    await wait_until(lambda: proxy.accepted >= 2)
    proxy.down.dropping = False
    await proxy.reset_all()
    assert same(await reading)


async def test_who_goes_away_leaves_nothing_behind(proxy: FaultProxy, wait_until: WaitUntil) -> None:
    proxy.down.dropping = True
    store = store_through(proxy)
    before = asyncio.all_tasks()
    readers = [asyncio.create_task(store.get("large", SIZE)) for _ in range(4)]
    await wait_until(lambda: proxy.accepted >= 4)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await wait_until(lambda: proxy.open_connections == 0)
    assert asyncio.all_tasks() - before <= set(readers)
    assert store._reads._slots._value == 8
    proxy.down.dropping = False
    assert same(await store.get("large", SIZE))


class BadServer:
    """Answers GET with what a test wants, the first ones by `statuses`; an unknown path is missing."""

    def __init__(self, *statuses: int, short_by: int = 0, knows_ranges: bool = True) -> None:
        self.statuses, self.short_by, self.knows_ranges = list(statuses), short_by, knows_ranges
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                self.asked += 1
                writer.write(self._answer(head))
                await writer.drain()
                if self.short_by:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        if self.statuses:
            return b"HTTP/1.1 %d Something\r\nContent-Length: 4\r\n\r\nnope" % self.statuses.pop(0)
        begin, end, status = 0, SIZE, b"200 OK"
        if self.knows_ranges and (at := head.lower().find(b"range: bytes=")) >= 0:
            first, _, last = head[at + 13 : head.index(b"\r\n", at)].partition(b"-")
            begin, end, status = int(first), min(int(last) + 1, SIZE), b"206 Partial Content"
        body = DATA[begin:end]
        fields = f"Content-Length: {len(body)}\r\nContent-Range: bytes {begin}-{end - 1}/{SIZE}\r\n"
        fields += 'ETag: "1"\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n\r\n'
        short_by, self.short_by = self.short_by, 0
        return b"HTTP/1.1 " + status + b"\r\n" + fields.encode() + body[: len(body) - short_by]


@asynccontextmanager
async def store_at(server: BadServer, retries: int = 2) -> AsyncIterator[ArtifactStore]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield open_store(f"s3://ready?endpoint=http://127.0.0.1:{port}", timeout_s=20, retries=retries)
        listening.close()


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_what_may_pass_is_tried_again(s3: S3Server, status: int) -> None:
    server = BadServer(status, status)
    async with store_at(server) as store:
        assert same(await store.get("large"))
    assert server.asked == 3


@pytest.mark.parametrize("status", [503, 500])
async def test_not_for_ever(s3: S3Server, status: int) -> None:
    server = BadServer(*[status] * 100)
    async with store_at(server) as store:
        with pytest.raises(StoreUnavailableError):
            await store.get("large")
    assert server.asked == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ObjectMissingError),
        (403, StoreUnavailableError),
        (401, StoreUnavailableError),
        (400, StoreUnavailableError),
    ],
)
async def test_what_stays_is_not_tried_again(s3: S3Server, status: int, error: type[Exception]) -> None:
    for size in (0, SIZE):
        server = BadServer(*[status] * 100)
        async with store_at(server) as store:
            with pytest.raises(error):
                await store.get("large", size)
        assert server.asked <= (1 if not size else len(pieces_of(SIZE)))


async def test_a_body_that_is_too_short_is_asked_for_again(s3: S3Server) -> None:
    server = BadServer(short_by=1000)
    async with store_at(server) as store:
        assert same(await store.get("large"))
    assert server.asked == 2


async def test_a_server_without_ranges_gives_the_whole(s3: S3Server) -> None:
    async with store_at(BadServer(knows_ranges=False)) as store:
        assert same(await store.get("large", SIZE))
