from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry.errors import ArtifactRejectedError, DeadlineError, InvalidRequestError
from registry.service.uploads import CHUNK_LIMIT_BYTES, Uploads
from scoremesh.registry.v1 import registry_pb2 as pb


async def chunks(*data: bytes, then_hang: bool = False) -> AsyncIterator[pb.PublishVersionRequest]:
    for piece in data:
        yield pb.PublishVersionRequest(chunk=piece)
    if then_hang:
        await asyncio.Event().wait()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_all_parts_make_the_file_and_nothing_is_left_of_it() -> None:
    pieces = [bytes([number]) * (CHUNK_LIMIT_BYTES // 3) for number in range(10)]
    upload = await Uploads().receive(chunks(*pieces, b"end"), digest(b"".join(pieces) + b"end"))
    path = upload.path
    for _ in range(2):  # it can be read from its beginning as often as one likes
        assert await asyncio.to_thread(path.read_bytes) == b"".join(pieces) + b"end"
    assert upload.size_bytes == sum(map(len, pieces)) + 3
    upload.close()
    upload.close()
    assert not path.exists()


async def test_an_empty_file_is_a_file() -> None:
    upload = await Uploads().receive(chunks(), digest(b""))
    assert (upload.size_bytes, await asyncio.to_thread(upload.path.read_bytes)) == (0, b"")
    upload.close()


@pytest.mark.parametrize("size", [11, 5_000_000])
async def test_what_is_larger_than_the_limit_is_refused_as_soon_as_it_is(size: int) -> None:
    uploads = Uploads(1, limit_bytes=10)
    endless = chunks(*[bytes(min(size, CHUNK_LIMIT_BYTES))] * 6, then_hang=True)
    with pytest.raises(ArtifactRejectedError, match="larger than the limit of 10 bytes"):
        await uploads.receive(endless, "0" * 64)
    (await uploads.receive(chunks(bytes(10)), digest(bytes(10)))).close()


async def test_a_file_that_was_cut_off_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=f"4 bytes came, with {digest(b'mode')}"):
        await Uploads().receive(chunks(b"mo", b"de"), digest(b"model"))


async def test_who_sends_nothing_loses_his_turn() -> None:
    uploads = Uploads(1, idle_s=0.05)
    with pytest.raises(DeadlineError, match=r"sent nothing for 0\.05 s"):
        await uploads.spec(chunks(then_hang=True))
    with pytest.raises(DeadlineError, match=r"sent nothing for 0\.05 s"):
        await uploads.receive(chunks(b"x", then_hang=True), digest(b"x"))
    (await uploads.receive(chunks(b"x"), digest(b"x"))).close()


async def test_the_others_wait_for_a_turn_and_who_leaves_gives_his_back() -> None:
    uploads = Uploads(1)
    first = await uploads.receive(chunks(b"x"), digest(b"x"))
    second = asyncio.ensure_future(uploads.receive(chunks(b"y", then_hang=True), digest(b"y")))
    third = asyncio.ensure_future(uploads.receive(chunks(b"z"), digest(b"z")))
    await asyncio.wait({second, third}, timeout=0.02)
    assert not second.done()
    assert not third.done()
    first.close()
    second.cancel()
    found = await third
    assert await asyncio.to_thread(Path(found.path).read_bytes) == b"z"
    found.close()
    assert second.cancelled()


async def test_a_chunk_without_bytes_is_refused() -> None:
    uploads = Uploads(1)
    with pytest.raises(InvalidRequestError, match="a chunk has no bytes"):
        await uploads.receive(chunks(b"x", b"", then_hang=True), digest(b"x"))
    (await uploads.receive(chunks(b"x"), digest(b"x"))).close()


async def test_who_sends_for_too_long_loses_his_turn() -> None:
    async def trickle() -> AsyncIterator[pb.PublishVersionRequest]:
        while True:
            await asyncio.sleep(0.001)
            yield pb.PublishVersionRequest(chunk=b"x")

    uploads = Uploads(1, whole_s=0.1)
    with pytest.raises(DeadlineError, match=r"took longer than 0\.1 s"):
        await uploads.receive(trickle(), "0" * 64)
    (await uploads.receive(chunks(b"x"), digest(b"x"))).close()
