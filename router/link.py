"""The link to one scorer: coalesces what waits for it into StreamScoreBatch calls.

An item is never delayed to fill a batch. It's sent at the end of the loop turn in which it came, together with all
that came in this turn, unless `MAX_UNANSWERED` batches are already out from which nothing was heard yet; then it
waits in the queue and leaves with the next batch. A scorer sends what it can score at once as the first message of
the stream, so an item that waits for a cold model neither delays its neighbours nor holds the link.

Invariants: each submitted item comes back exactly once through `on_result`, unless its caller cancelled it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError

from registry.failure import Code, Failure
from router.channel import Channel, Handle
from router.item import Item
from router.retry import RetryPolicy
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResults

PATH = b"/scoremesh.scoring.v1.ScoringService/StreamScoreBatch"
MAX_UNANSWERED = 4
MAX_ITEMS = 256
MAX_BYTES = 1024 * 1024

OnResult = Callable[[Item, bytes | None, Failure | None], None]


class Batch:
    """Items that travel together; the receiver of one call."""

    __slots__ = ("_handle", "_heard", "_items", "_left", "_link")

    def __init__(self, link: Link, items: list[Item]) -> None:
        self._link = link
        self._items: list[Item | None] = list(items)
        self._left = len(items)
        self._heard = False
        self._handle: Handle | None = None

    def start(self, channel: Channel, payload: bytes, timeout_s: float) -> None:
        """Send it."""
        for item in self._items:
            if item is not None:
                item.withdraw = self._withdraw
        self._handle = channel.call(payload, timeout_s, self)

    def on_message(self, payload: bytes) -> None:
        """Some results came."""
        self._mark_heard()
        try:
            results = RawResults.FromString(payload).results
        except DecodeError:
            self._fail_rest(Failure(Code.INTERNAL, "a scorer sent an answer that can't be read", "BAD_ANSWER"))
            return
        for result in results:
            item = self._take(result.index)
            if item is None:
                continue
            if result.code:
                failure = Failure(result.code, result.message, result.reason, result.retry_after_ms)
                self._link.on_result(item, None, failure)
            else:
                self._link.on_result(item, result.response, None)

    def on_end(self, status: int, message: str, sent: bool) -> None:
        """The call is over: what wasn't answered fails with its status."""
        self._mark_heard()
        if self._left:
            self._fail_rest(_failure_of_call(status, message))

    def _mark_heard(self) -> None:
        if not self._heard:
            self._heard = True
            self._link.heard()

    def _take(self, index: int) -> Item | None:
        item = self._items[index] if index < len(self._items) else None
        if item is None:
            return None
        self._items[index] = None
        self._left -= 1
        item.withdraw = None
        return None if item.done else item

    def _fail_rest(self, failure: Failure) -> None:
        for index in range(len(self._items)):
            item = self._take(index)
            if item is not None:
                self._link.on_result(item, None, failure)

    def _withdraw(self) -> None:
        """A caller has gone. When no caller is left, the scorer needn't go on, and nothing will be heard of it."""
        if self._handle is not None and all(item is None or item.done for item in self._items):
            self._handle.cancel()
            self._mark_heard()


def _failure_of_call(status: int, message: str) -> Failure:
    if status == Code.DEADLINE_EXCEEDED:
        return Failure(status, "the scorer did not answer within the deadline", "DEADLINE_EXCEEDED")
    if status == Code.UNAVAILABLE:
        return Failure(status, f"the scorer is not reachable: {message}", "SCORER_UNREACHABLE")
    if status == 0:
        return Failure(Code.INTERNAL, "the scorer left an item unanswered", "BAD_ANSWER")
    return Failure(status, message, "SCORER_FAILED")


class Link:
    """See the module."""

    def __init__(self, channel: Channel, on_result: OnResult, policy: RetryPolicy) -> None:
        self._channel = channel
        self.on_result = on_result
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Item] = deque()
        self._unanswered = 0
        self._scheduled = False

    def submit(self, item: Item) -> None:
        """Send an item with the next batch."""
        self._queue.append(item)
        self._schedule()

    def heard(self) -> None:
        """One of the batches has been heard of."""
        self._unanswered -= 1
        if self._queue:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._unanswered < MAX_UNANSWERED:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        now = self._loop.time()
        while self._queue and self._unanswered < MAX_UNANSWERED:
            items, timeouts_ms = self._take(now)
            if items:
                self._send(items, timeouts_ms)

    def _take(self, now: float) -> tuple[list[Item], list[int]]:
        items: list[Item] = []
        timeouts_ms: list[int] = []
        room = MAX_BYTES
        while self._queue and len(items) < MAX_ITEMS and room > 0:
            item = self._queue.popleft()
            if item.done:
                continue
            left_s = self._policy.left_s(now, item.deadline)
            if left_s <= 0:
                self.on_result(
                    item, None, Failure(Code.DEADLINE_EXCEEDED, "no time left to ask a scorer", "DEADLINE_EXCEEDED")
                )
                continue
            items.append(item)
            timeouts_ms.append(int(left_s * 1000) + 1)
            room -= len(item.payload)
        return items, timeouts_ms

    def _send(self, items: list[Item], timeouts_ms: list[int]) -> None:
        self._unanswered += 1
        payload = RawBatch(items=[item.payload for item in items], timeout_ms=timeouts_ms).SerializeToString()
        Batch(self, items).start(self._channel, payload, max(timeouts_ms) / 1000)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is unanswered."""
        return not self._queue and not self._unanswered

    async def aclose(self) -> None:
        """Close the channel; what is on its way fails with UNAVAILABLE."""
        await self._channel.aclose()
