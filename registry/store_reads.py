"""Reading whole objects: large ones in pieces, several at a time; what may pass is tried again.

Contract: `read` gives all bytes of an object or raises what the store's library raised last. After a failure that may
pass (a time that is over, a status of 5xx, 408 or 429, a connection that was cut, a body that is too short) the one
piece that failed is tried again a few times, with pauses that grow; after one that stays (missing, not allowed) it is
not. Each try is bounded by the client's time limit, and the whole by that times the number of tries. When a call ends,
however it ends, nothing of it runs any more.

Pieces are requests of their own, and an object that was replaced between two of them would be torn. Objects here are
never replaced, and what may be large is checked against its digest by whoever reads it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, GenericError, JoinError, NotSupportedError

from registry.bounded import map_all
from registry.etcd_backoff import Backoff

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECE_BYTES = 4 << 20
LARGE_BYTES = 2 * PIECE_BYTES  # below, a second request costs more than it gains
PIECES_AT_ONCE = 8
_FIRST_PAUSE_S = 0.1
_NO_PIECES = re.compile(r"non-partial response|status code: 416|Requested range was invalid")
_LASTING = re.compile(r"status code: 4(?!08|29)\d\d")


class _NotInPiecesError(Exception):
    """The object isn't as large as was said, or the server knows no ranges."""


def pieces_of(size_bytes: int) -> list[tuple[int, int]]:
    """First byte and the byte after the last of each piece, in order. Pure."""
    return [(begin, min(begin + PIECE_BYTES, size_bytes)) for begin in range(0, size_bytes, PIECE_BYTES)]


class StoreReads:
    """See the module. `timeout_s`: what the client of `store` bounds a try with; it must not retry by itself. At most
    `PIECES_AT_ONCE` pieces of all objects together are read at a time.
    """

    def __init__(self, store: ObjectStore, timeout_s: float = 30.0, retries: int = 2) -> None:
        self._store, self._timeout_s, self._retries = store, timeout_s, retries
        self._slots = asyncio.Semaphore(PIECES_AT_ONCE)

    async def read(self, path: str, size_bytes: int = 0) -> bytes:
        """All bytes of an object. `size_bytes`: its size, where it's known; a wrong one costs time only."""
        async with asyncio.timeout(self._timeout_s * (self._retries + 1)):
            if size_bytes >= LARGE_BYTES:
                try:
                    return await self._in_pieces(path, size_bytes)
                except _NotInPiecesError:
                    pass
            return bytes(await self._persistently(lambda: self._all_of(path)))

    async def _in_pieces(self, path: str, size_bytes: int) -> bytes:
        async def piece(span: tuple[int, int]) -> obstore.Bytes:
            async with self._slots:
                return await self._persistently(lambda: self._part_of(path, span, size_bytes))

        return b"".join(await map_all(pieces_of(size_bytes), piece, PIECES_AT_ONCE))

    async def _persistently(self, once: Callable[[], Awaitable[obstore.Bytes]]) -> obstore.Bytes:
        backoff = Backoff(_FIRST_PAUSE_S)
        for _ in range(self._retries):
            try:
                return await once()
            except (BaseError, OSError) as error:
                if not may_pass(error):
                    raise
            await backoff.pause()
        return await once()

    async def _all_of(self, path: str) -> obstore.Bytes:
        return await _body(await obstore.get_async(self._store, path))

    async def _part_of(self, path: str, span: tuple[int, int], size_bytes: int) -> obstore.Bytes:
        try:
            result = await obstore.get_async(self._store, path, options={"range": span})
        except (GenericError, NotSupportedError) as error:
            if _NO_PIECES.search(str(error)) is None:
                raise
            raise _NotInPiecesError from error
        if result.meta["size"] != size_bytes:
            raise _NotInPiecesError
        return await _body(result)


async def _body(result: obstore.GetResult) -> obstore.Bytes:
    begin, end = result.range
    data = await result.bytes_async()
    if len(data) != end - begin:
        raise ConnectionResetError(f"{len(data)} of {end - begin} bytes came")
    return data


def may_pass(error: Exception) -> bool:
    """Whether a failure of the store's library may be another one, or none, at the next try. Pure."""
    if isinstance(error, GenericError | JoinError):
        return _LASTING.search(str(error)) is None
    return isinstance(error, ConnectionError | TimeoutError)
