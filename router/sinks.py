"""The places of items in the results of a batch. See `router.item.Sink`."""

from __future__ import annotations

import asyncio

from registry.failure import Failure
from registry.front import Call
from scoremesh.forwarding.v1.forwarding_pb2 import RawResult, RawResults


class Results:
    """Gathers the results of a batch call; answers when the last one is in."""

    def __init__(self, call: Call, size: int) -> None:
        self.call = call
        self._results: list[RawResult | None] = [None] * size
        self._left = size

    def put(self, index: int, result: RawResult) -> None:
        """The result of one item."""
        self._results[index] = result
        self._left -= 1
        if self._left == 0:
            self.call.respond(RawResults(results=[r for r in self._results if r is not None]).SerializeToString())


class StreamedResults:
    """Sends the results of a streamed batch, those of one loop turn in one message."""

    def __init__(self, call: Call, size: int) -> None:
        self.call = call
        self._ready: list[RawResult] = []
        self._left = size

    def put(self, _index: int, result: RawResult) -> None:
        """The result of one item."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._flush)
        self._ready.append(result)

    def _flush(self) -> None:
        self.call.respond(RawResults(results=self._ready).SerializeToString())
        self._left -= len(self._ready)
        self._ready = []
        if self._left == 0:
            self.call.end()


class ItemSink:
    """The sink of one item of a batch."""

    __slots__ = ("_index", "_results")

    def __init__(self, results: Results | StreamedResults, index: int) -> None:
        self._results = results
        self._index = index

    def respond(self, payload: bytes) -> None:
        self._results.put(self._index, RawResult(index=self._index, response=payload))

    def fail(self, failure: Failure) -> None:
        code, message, reason, retry_after_ms = failure
        result = RawResult(index=self._index, code=code, message=message, reason=reason, retry_after_ms=retry_after_ms)
        self._results.put(self._index, result)
