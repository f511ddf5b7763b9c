"""Uploads: the messages of a stream become a file.

Contract: a file is complete and has the digest that its sender said, or there is none. It has no name from its first
byte on, so that nothing of it is left when its sender or this process dies. At most `concurrent` are held at once; the
others wait for their turn, as long as their callers' deadlines allow. Who sends nothing for `idle_s`, or isn't done
`whole_s` after his turn began, loses it.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from registry.errors import ArtifactRejectedError, DeadlineError, InvalidRequestError
from registry.publish import SIZE_LIMIT_BYTES
from scoremesh.registry.v1 import registry_pb2 as pb

CHUNK_LIMIT_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 20
Messages = AsyncIterator[pb.PublishVersionRequest]


class Upload:
    """What came, and its turn among the uploads; `close` gives back both, and may be called twice."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        """Opens the nameless file anew, from its beginning."""
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal, of all that was written."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append; the disk may be slow, so it isn't done on the event loop."""
        self.size_bytes += len(data)
        await asyncio.to_thread(self._append, data)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        self._hash.update(data)

    def close(self) -> None:
        """Forget the bytes and let the next one in."""
        turns, self._turns = self._turns, None
        if turns is not None:
            self._file.close()
            turns.release()


class Uploads:
    """See the module."""

    def __init__(
        self,
        concurrent: int = 8,
        *,
        limit_bytes: int = SIZE_LIMIT_BYTES,
        idle_s: float = 30.0,
        whole_s: float = 900.0,  # 256 MiB in this time are 2.4 Mbit/s
    ) -> None:
        self._turns = asyncio.Semaphore(concurrent)
        self._limit_bytes = limit_bytes
        self._idle_s = idle_s
        self._whole_s = whole_s

    async def spec(self, messages: Messages) -> pb.PublishSpec:
        """The first message. Raises InvalidRequestError where it is another one."""
        message = await self._next(messages)
        if message is None or message.WhichOneof("part") != "spec":
            raise InvalidRequestError("the first message of an upload must have `spec`")
        return message.spec

    async def receive(self, messages: Messages, sha256: str) -> Upload:
        """All messages after the first; `sha256`: of what should come. A stream that was cut off may end like one that
        is complete, so this alone tells that all of it is here.

        Raises:
            InvalidRequestError: a message that isn't a chunk, or other bytes came.
            ArtifactRejectedError: it is larger than the limit.
            DeadlineError: nothing came for too long, or all of it takes too long.
        """
        await self._turns.acquire()
        upload = Upload(self._turns)
        try:
            await self._fill_in_time(upload, messages)
            _check_complete(upload, sha256)
        except BaseException:
            upload.close()
            raise
        return upload

    async def _fill_in_time(self, upload: Upload, messages: Messages) -> None:
        try:
            async with asyncio.timeout(self._whole_s):
                await self._fill(upload, messages)
        except TimeoutError as error:
            raise DeadlineError(f"the upload took longer than {self._whole_s:g} s") from error

    async def _fill(self, upload: Upload, messages: Messages) -> None:
        waiting = bytearray()
        while (message := await self._next(messages)) is not None:
            waiting += _chunk(message)
            if upload.size_bytes + len(waiting) > self._limit_bytes:
                raise ArtifactRejectedError(f"the file is larger than the limit of {self._limit_bytes} bytes")
            if len(waiting) >= _BUFFER_BYTES:
                await upload.write(bytes(waiting))
                waiting.clear()
        await upload.write(bytes(waiting))

    async def _next(self, messages: Messages) -> pb.PublishVersionRequest | None:
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(messages, None)
        except TimeoutError as error:
            raise DeadlineError(f"the upload sent nothing for {self._idle_s:g} s") from error


def _check_complete(upload: Upload, sha256: str) -> None:
    if sha256 != upload.sha256:
        raise InvalidRequestError(f"sha256: {upload.size_bytes} bytes came, with {upload.sha256}")


def _chunk(message: pb.PublishVersionRequest) -> bytes:
    if message.WhichOneof("part") != "chunk":
        raise InvalidRequestError("a message of an upload after the first must have `chunk`")
    if not message.chunk:
        raise InvalidRequestError("a chunk has no bytes")
    if len(message.chunk) > CHUNK_LIMIT_BYTES:
        raise InvalidRequestError(f"a chunk has {len(message.chunk)} bytes, more than {CHUNK_LIMIT_BYTES}")
    return message.chunk
