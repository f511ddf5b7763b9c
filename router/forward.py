"""Takes calls in, sends each item to the scorer that owns its model, and gives the answers back.

Contract: `score`, `score_batch` and `stream_score_batch` are handlers of `registry.front`: they return at once. Nothing
here awaits, touches etcd or parses more of a request than its tenant and model. Every call is answered exactly once, or
its caller has gone.

State is two references that `use` swaps when the membership changes: the placement, and the links by member id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf

from google.protobuf.message import DecodeError

from registry.errors import DeadlineError, InvalidRequestError, NoScorerError
from registry.failure import Failure
from registry.front import Call
from registry.model import check_name
from registry.placement import Placement
from registry.status import failure_of
from router.item import Item, Sink
from router.link import Link
from router.retry import RetryPolicy
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResult, RawResults, ScoreRequestHead

MAX_BATCH_ITEMS = 1024
_MAX_NAME = 128


class _CallSink:
    """The sink of a Score call: its one item is the whole answer."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def answer(self, response: bytes) -> None:
        self._call.respond(response)

    def refuse(self, failure: Failure) -> None:
        self._call.fail(failure)


class _Results:
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


class _StreamedResults:
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


class _ItemSink:
    """The sink of one item of a batch."""

    __slots__ = ("_index", "_results")

    def __init__(self, results: _Results | _StreamedResults, index: int) -> None:
        self._results = results
        self._index = index

    def answer(self, response: bytes) -> None:
        self._results.put(self._index, RawResult(index=self._index, response=response))

    def refuse(self, failure: Failure) -> None:
        code, message, reason, retry_after_ms = failure
        result = RawResult(index=self._index, code=code, message=message, reason=reason, retry_after_ms=retry_after_ms)
        self._results.put(self._index, result)


class Forwarder:
    """See the module. `default_timeout_s`: the deadline of a call that came without one."""

    def __init__(self, policy: RetryPolicy, *, default_timeout_s: float) -> None:
        self._policy = policy
        self._default_timeout_s = default_timeout_s
        self._loop = asyncio.get_running_loop()
        self._placement = Placement(())
        self._links: Mapping[str, Link] = {}
        self._why_none = "the router has not yet learned from etcd which scorers are alive"

    def use(self, placement: Placement, links: Mapping[str, Link], why_none: str) -> None:
        """Route by this from now on. `why_none`: what to tell callers when there is no candidate."""
        self._placement, self._links, self._why_none = placement, links, why_none

    def score(self, call: Call) -> None:
        """ScoringService.Score."""
        item = self._place(call.payload, self._deadline(call), _CallSink(call))
        if item is not None:
            call.on_cancel = item.cancel
            self._send(item)

    def score_batch(self, call: Call) -> None:
        """ScoringService.ScoreBatch."""
        batch = _parse_batch(call.payload)
        self._send_all(call, batch, _Results(call, len(batch.items)))

    def stream_score_batch(self, call: Call) -> None:
        """ScoringService.StreamScoreBatch."""
        batch = _parse_batch(call.payload)
        self._send_all(call, batch, _StreamedResults(call, len(batch.items)))

    def _send_all(self, call: Call, batch: RawBatch, results: _Results | _StreamedResults) -> None:
        deadline = self._deadline(call)
        now = self._loop.time()
        items: list[Item] = []
        for index, payload in enumerate(batch.items):
            left_ms = batch.timeout_ms[index] if batch.timeout_ms else 0
            item_deadline = min(deadline, now + left_ms / 1000) if left_ms else deadline
            item = self._place(payload, item_deadline, _ItemSink(results, index))
            if item is not None:
                items.append(item)

        def cancel_all() -> None:
            for item in items:
                item.cancel()

        call.on_cancel = cancel_all
        for item in items:
            self._send(item)

    def _deadline(self, call: Call) -> float:
        return call.deadline if call.deadline != inf else self._loop.time() + self._default_timeout_s

    def _place(self, payload: bytes, deadline: float, sink: Sink) -> Item | None:
        """The item with its candidates; None when it was refused."""
        try:
            head = _parse_head(payload)
            candidates = self._placement.candidates(head.tenant, head.model)
        except InvalidRequestError as error:
            sink.refuse(failure_of(error))
            return None
        if not candidates:
            sink.refuse(failure_of(NoScorerError(self._why_none)))
            return None
        return Item(payload, deadline, candidates, sink)

    def _send(self, item: Item) -> None:
        if item.deadline <= self._loop.time():
            self._refuse(item, failure_of(DeadlineError("the deadline had passed when the router read the request")))
            return
        # A member may have left since the item was placed; its link is gone, and the next candidate is as good.
        while item.attempts < len(item.candidates):
            link = self._links.get(item.candidates[item.attempts].id)
            item.attempts += 1
            if link is not None:
                link.submit(item)
                return
        self._refuse(item, failure_of(NoScorerError(self._why_none)))

    def on_result(self, item: Item, response: bytes | None, failure: Failure | None, sent: bool = True) -> None:
        """A link is done with an item."""
        if item.done:
            return
        if failure is None:
            item.done = True
            item.sink.answer(response or b"")
        elif self._policy.may_retry(
            failure.code, item.attempts, len(item.candidates), self._loop.time(), item.deadline
        ):
            self._send(item)
        else:
            self._refuse(item, failure)

    def _refuse(self, item: Item, failure: Failure) -> None:
        item.done = True
        item.sink.refuse(failure)


def _parse_head(payload: bytes) -> ScoreRequestHead:
    try:
        head = ScoreRequestHead.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError("the bytes are not a ScoreRequest") from error
    if not head.tenant or not head.model:
        raise InvalidRequestError("tenant is missing" if not head.tenant else "model is missing")
    if len(head.tenant) > _MAX_NAME or len(head.model) > _MAX_NAME:  # placements are remembered by name
        check_name("tenant", head.tenant)
        check_name("model", head.model)
    return head


def _parse_batch(payload: bytes) -> RawBatch:
    try:
        batch = RawBatch.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError("the bytes are not a batch of ScoreRequests") from error
    if not 1 <= len(batch.items) <= MAX_BATCH_ITEMS:
        raise InvalidRequestError(f"a batch has 1 to {MAX_BATCH_ITEMS} items, not {len(batch.items)}")
    if batch.timeout_ms and len(batch.timeout_ms) != len(batch.items):
        raise InvalidRequestError(f"timeout_ms has {len(batch.timeout_ms)} entries for {len(batch.items)} items")
    return batch
