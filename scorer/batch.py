"""Gathers the results of a batch and sends them: all in one message, or what is ready in parts.

Results are encoded by hand (`scorer.wire`), as fields `results` of ScoreBatchResponse and StreamScoreBatchResponse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from registry.failure import Failure
from registry.front import Call
from scorer.wire import field, number_field, varint

MAX_BATCH_ITEMS = 1024


_PART_BYTES = 2 * 1024 * 1024
_INDEXES = [number_field(1, index) for index in range(MAX_BATCH_ITEMS)]
_RESULT = b"\x0a"  # field 1, length-delimited
_RESPONSE = b"\x32"  # field 6, length-delimited


class Sink(Protocol):
    """Takes what becomes of each item, once."""

    def answer(self, index: int, response: bytes) -> None:
        """The item's serialized ScoreResponse."""

    def refuse(self, index: int, failure: Failure) -> None:
        """Why the item has none."""


class LoneSink:
    """Of a call with a single item, which is the call's own answer."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def answer(self, _index: int, response: bytes) -> None:
        """Answer the call."""
        self._call.respond(response)

    def refuse(self, _index: int, failure: Failure) -> None:
        """Fail the call."""
        self._call.fail(failure)


class WholeSink:
    """Answers a ScoreBatch call when its last result is in, in the order of the items."""

    def __init__(self, call: Call, size: int) -> None:
        self._call = call
        self._results = [b""] * size
        self._left = size

    def answer(self, index: int, response: bytes) -> None:
        """Put in the response to an item."""
        self._put(index, _answered(index, response))

    def refuse(self, index: int, failure: Failure) -> None:
        """Put in the failure of an item."""
        self._put(index, _refused(index, failure))

    def _put(self, index: int, result: bytes) -> None:
        self._results[index] = result
        self._left -= 1
        if not self._left:
            self._call.respond(b"".join(self._results))

    def flush(self) -> None:
        """All items have been begun; nothing to do, since the answer is sent whole."""


class PartSink:
    """Streams: the results that are in when all items have been begun go out as one message (an empty one when none
    is: the caller learns that the batch was heard), each later one by itself.
    """

    def __init__(self, call: Call, size: int) -> None:
        self._call = call
        self._ready: list[bytes] | None = []
        self._left = size

    def answer(self, index: int, response: bytes) -> None:
        """Put in the response to an item."""
        self._put(_answered(index, response))

    def refuse(self, index: int, failure: Failure) -> None:
        """Put in the failure of an item."""
        self._put(_refused(index, failure))

    def _put(self, result: bytes) -> None:
        self._left -= 1
        if self._ready is not None:
            self._ready.append(result)
            return
        self._call.respond(result)
        if not self._left:
            self._call.end()

    def flush(self) -> None:
        """All items have been begun: send what is in."""
        ready, self._ready = self._ready or [], None
        for part in _parts(ready):
            self._call.respond(b"".join(part))
        if not self._left:
            self._call.end()


def _parts(results: list[bytes]) -> Iterator[list[bytes]]:
    """Results cut into messages of a size that everybody takes; at least one, which may be empty."""
    part: list[bytes] = []
    size = 0
    for result in results:
        if part and size + len(result) > _PART_BYTES:
            yield part
            part, size = [], 0
        part.append(result)
        size += len(result)
    yield part


def _answered(index: int, response: bytes) -> bytes:
    head = _INDEXES[index] + _RESPONSE + varint(len(response))
    return _RESULT + varint(len(head) + len(response)) + head + response


def _refused(index: int, failure: Failure) -> bytes:
    return field(
        1,
        number_field(1, index)
        + number_field(2, failure.code)
        + field(3, failure.message.encode())
        + field(4, failure.reason.encode())
        + number_field(5, failure.retry_after_ms),
    )
