"""The link to one scorer: coalesces what waits for it into StreamScoreBatch calls.

An item is never delayed to fill a batch. It's sent at the end of the loop turn in which it came, together with all
that came in this turn, unless `MAX_UNANSWERED` batches are already out from which nothing was heard yet; then it
waits in the queue and leaves with the next batch. A scorer sends what it can score at once as the first message of
the stream, so an item that waits for a cold model neither delays its neighbours nor holds the link.

Head of line: items over `LARGE_BYTES` wait in a queue of their own, travel alone, and have `MAX_LARGE_UNANSWERED`
places of their own, so that small ones neither wait behind them nor share a batch with them; on the connection they
take turns (`router.h2_sender`).

Flow control: what waits is bounded by items and bytes, and `submit` refuses what is over it; what is out is bounded,
too, and while it's at its bound everything waits.

Stalls: a scorer from which nothing comes, not even the answer to a ping, while items are out, is stalled: `on_stall` is
called, which may take items away (`take_back`). Pings go on, and the first sign of life ends it.

Invariants: each submitted item comes back exactly once through `Owner.on_result`, unless its caller cancelled it or
`take_back` gave it away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from registry.failure import Code, Failure
from router.channel import Channel, Handle
from router.choice import LinkLoad
from router.hedge import Percentile
from router.item import Item
from router.outliers import Watched
from router.retry import RetryPolicy
from router.stall import StallWatch
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResults, ScoreResponseHead

PATH = b"/scoremesh.scoring.v1.ScoringService/StreamScoreBatch"
MAX_UNANSWERED = 4
MAX_LARGE_UNANSWERED = 2
MAX_ITEMS = 256
MAX_BYTES = 1024 * 1024
LARGE_BYTES = 16 * 1024
MAX_WAITING_ITEMS = 2048  # so at most 32 MiB of small ones
MAX_WAITING_BYTES = 32 * 1024 * 1024  # of large ones
MAX_OUT_ITEMS = 8192
MAX_OUT_BYTES = 64 * 1024 * 1024
_LOOK_S = 0.05
_HIT = 1  # scoremesh.scoring.v1.RESIDENCY_HIT
_FULL = Failure(Code.RESOURCE_EXHAUSTED, "too much waits for the scorers of the model already", "LINK_FULL", 100)


class Owner(Protocol):
    """Who gave items to a link."""

    def on_result(self, item: Item, response: bytes | None, failure: Failure | None, sent: bool = True) -> None:
        """What became of an item. `sent`: False where the scorer surely never got it."""

    def on_answers(self, link: Link, item: Item, count: int) -> None:
        """A message brought `count` answers, `item`'s among them."""

    def on_stall(self, link: Link, stalled: bool) -> None:
        """A stall begins, or is over."""


class Batch:
    """Items that travel together; the receiver of one call."""

    __slots__ = ("_handle", "_heard", "_items", "_left", "_link", "_size_bytes", "is_large", "sent_at")

    def __init__(self, link: Link, items: list[Item], size_bytes: int, now: float, *, is_large: bool) -> None:
        self._link = link
        self._items: list[Item | None] = list(items)
        self._left = len(items)
        self._size_bytes = size_bytes
        self._heard = False
        self._handle: Handle | None = None
        self.is_large = is_large
        self.sent_at = now

    def start(self, channel: Channel, payload: bytes, timeout_s: float) -> None:
        """Send it."""
        for item in self._items:
            if item is not None:
                item.withdraw = self._withdraw
        self._handle = channel.call(payload, timeout_s, self)

    def on_message(self, payload: bytes) -> None:
        """Some results came."""
        is_first = not self._heard
        if is_first:
            self._heard = True
            self._link.heard(self, answered=True)
        try:
            results = RawResults.FromString(payload).results
        except DecodeError:
            self._fail_rest(Failure(Code.INTERNAL, "a scorer sent an answer that can't be read", "BAD_ANSWER"))
            return
        owner, left, answers = self._link.owner, self._left, 0
        for result in results:
            item = self._take(result.index)
            if item is None:
                continue
            if result.code:
                failure = Failure(result.code, result.message, result.reason, result.retry_after_ms)
                owner.on_result(item, None, failure)
                continue
            if not is_first:
                item.cold = _was_cold(result.response)
            if not answers:
                owner.on_answers(self._link, item, len(results))
                answers = 1
            owner.on_result(item, result.response, None)
        self._account(left)
        if is_first and self._left:
            self._mark_cold()

    def _mark_cold(self) -> None:
        """What isn't answered at once waits for its model to be loaded, or for a long prediction: its answer tells."""
        for item in self._items:
            if item is not None:
                item.cold = True

    def on_end(self, status: int, message: str, sent: bool) -> None:
        """The call is over: what wasn't answered fails with its status."""
        self._mark_heard()
        if self._left:
            self._fail_rest(_failure_of_call(status, message), sent)

    def _mark_heard(self) -> None:
        if not self._heard:
            self._heard = True
            self._link.heard(self, answered=False)

    def _take(self, index: int) -> Item | None:
        item = self._items[index] if index < len(self._items) else None
        if item is None:
            return None
        self._items[index] = None
        self._left -= 1
        item.withdraw = None
        return None if item.done else item

    def _account(self, left_before: int) -> None:
        """Tell the link how many items aren't out any more."""
        if self._left != left_before:
            self._link.settle(self, left_before - self._left, 0 if self._left else self._size_bytes)

    def _fail_rest(self, failure: Failure, sent: bool = True) -> None:
        left = self._left
        for index in range(len(self._items)):
            item = self._take(index)
            if item is not None:
                self._link.owner.on_result(item, None, failure, sent)
        self._account(left)

    def give_up(self, moves: Callable[[Item], bool]) -> None:
        """Let go of each item that `moves` takes, and of the call when none is left."""
        left = self._left
        for index, item in enumerate(self._items):
            if item is not None and (item.done or moves(item)):
                self._take(index)
        self._account(left)
        if not self._left and self._handle is not None:
            self._handle.cancel()
            self._mark_heard()

    def _withdraw(self) -> None:
        """A caller has gone. When no caller is left, the scorer needn't go on, and nothing will be heard of it."""
        if self._handle is not None and all(item is None or item.done for item in self._items):
            self.give_up(lambda _item: True)


def _was_cold(response: bytes) -> bool:
    try:
        return bool(ScoreResponseHead.FromString(response).residency > _HIT)
    except DecodeError:
        return True


def _failure_of_call(status: int, message: str) -> Failure:
    if status == Code.DEADLINE_EXCEEDED:
        return Failure(status, "the scorer did not answer within the deadline", "DEADLINE_EXCEEDED")
    if status == Code.UNAVAILABLE:
        return _unreachable(message)
    if status == 0:
        return Failure(Code.INTERNAL, "the scorer left an item unanswered", "BAD_ANSWER")
    return Failure(status, message, "SCORER_FAILED")


def _unreachable(why: str) -> Failure:
    return Failure(Code.UNAVAILABLE, f"the scorer is not reachable: {why}", "SCORER_UNREACHABLE")


class _Lane:
    """Items that wait, and how many batches of them are out unheard. `places`: how many may be."""

    __slots__ = ("max_items", "places", "queue", "unanswered")

    def __init__(self, places: int, max_items: int) -> None:
        self.queue: deque[Item] = deque()
        self.unanswered = 0
        self.places = places
        self.max_items = max_items


class Link:
    """See the module. `load`, `watched`: what the choice among links knows of it; whoever uses it keeps them. `p95`: of
    the times that batches take until something is heard of them.
    """

    def __init__(self, member_id: str, channel: Channel, owner: Owner, policy: RetryPolicy) -> None:
        self.member_id = member_id
        self.load = LinkLoad()
        self.watched = Watched(self.load)
        self.owner = owner
        self._channel = channel
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._small = _Lane(MAX_UNANSWERED, MAX_ITEMS)
        self._large = _Lane(MAX_LARGE_UNANSWERED, 1)
        self._large_bytes = 0  # that wait
        self._batches: set[Batch] = set()
        self._out_items = 0
        self._out_bytes = 0
        self._scheduled = False
        self.p95 = Percentile()
        self._watch = StallWatch(self.p95)
        self._look_timer: asyncio.TimerHandle | None = None
        self._held = 0  # items that wait or are out

    # --- in ---

    def submit(self, item: Item) -> Failure | None:
        """Send an item with the next batch. A failure, RESOURCE_EXHAUSTED or UNAVAILABLE, if the item isn't taken: too
        much waits already, or the scorer can't be reached just now.
        """
        if self._channel.down:
            return _unreachable(self._channel.failure)
        size = len(item.payload)
        lane = self._small if size <= LARGE_BYTES else self._large
        if (len(lane.queue) >= MAX_WAITING_ITEMS or size > LARGE_BYTES) and not self._has_room(lane, size):
            return _FULL
        lane.queue.append(item)
        self._held += 1
        if not self._scheduled and lane.unanswered < lane.places:
            self._schedule()
        return None

    def _has_room(self, lane: _Lane, size: int) -> bool:
        """Whether a lane takes an item of this size. Large ones are counted as taken."""
        queue = lane.queue
        while queue and queue[0].done:
            queue.popleft()
            self._held -= 1
        if len(queue) >= MAX_WAITING_ITEMS:
            return False
        if lane is self._large:
            if self._large_bytes and self._large_bytes + size > MAX_WAITING_BYTES:
                self._large_bytes = sum(len(item.payload) for item in queue)  # those of callers that left hold nothing
            if self._large_bytes and self._large_bytes + size > MAX_WAITING_BYTES:
                return False
            self._large_bytes += size
        return True

    # --- out ---

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        now = self._loop.time()
        for lane in (self._small, self._large):
            while lane.queue and lane.unanswered < lane.places and self._may_send:
                items, timeouts_ms = self._take(lane, now)
                if items:
                    self._send(lane, items, timeouts_ms, now)

    @property
    def _may_send(self) -> bool:
        return self._out_items < MAX_OUT_ITEMS and self._out_bytes < MAX_OUT_BYTES

    def _take(self, lane: _Lane, now: float) -> tuple[list[Item], list[int]]:
        queue = lane.queue
        items: list[Item] = []
        timeouts_ms: list[int] = []
        room, before, most = MAX_BYTES, len(queue), lane.max_items
        latest = now + self._policy.margin_s
        while queue and len(items) < most and room > 0:
            item = queue.popleft()
            if item.done:
                continue
            if item.deadline <= latest:
                late = Failure(Code.DEADLINE_EXCEEDED, "no time left to ask a scorer", "DEADLINE_EXCEEDED")
                self.owner.on_result(item, None, late)
                continue
            items.append(item)
            timeouts_ms.append(int((item.deadline - latest) * 1000) + 1)
            room -= len(item.payload)
        self._held -= before - len(queue) - len(items)
        if lane is self._large:
            self._large_bytes = self._large_bytes - (MAX_BYTES - room) if queue else 0
        return items, timeouts_ms

    def _send(self, lane: _Lane, items: list[Item], timeouts_ms: list[int], now: float) -> None:
        lane.unanswered += 1
        payload = RawBatch(items=[item.payload for item in items], timeout_ms=timeouts_ms).SerializeToString()
        if not self._batches:
            self._watch.expect(now)
            if self._look_timer is None:
                self._plan_look(now)
        self._out_items += len(items)
        self._out_bytes += len(payload)
        batch = Batch(self, items, len(payload), now, is_large=lane is self._large)
        self._batches.add(batch)
        batch.start(self._channel, payload, max(timeouts_ms) / 1000)

    # --- back ---

    def heard(self, batch: Batch, *, answered: bool) -> None:
        """The first that is heard of a batch; `answered`: by the scorer itself."""
        lane = self._large if batch.is_large else self._small
        lane.unanswered -= 1
        if answered:
            self.p95.observe(self._loop.time() - batch.sent_at)
        if lane.queue:
            self._schedule()

    def settle(self, batch: Batch, items: int, size_bytes: int) -> None:
        """So many items of a batch aren't out any more; with the last one its bytes."""
        self._held -= items
        self._out_items -= items
        if size_bytes:
            self._out_bytes -= size_bytes
            self._batches.discard(batch)
        if self._small.queue or self._large.queue:
            self._schedule()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self._held

    @property
    def reachable(self) -> bool:
        """Whether an item that is submitted now may reach the scorer, as far as is known."""
        return not self._watch.stalled and not self._channel.down

    @property
    def stalled(self) -> bool:
        """Whether a stall is on."""
        return self._watch.stalled

    # --- stalls ---

    def take_back(self, moves: Callable[[Item], bool]) -> None:
        """Offer every item that is out or waits to `moves`; those for which it returns True are this link's no more."""
        for batch in list(self._batches):
            batch.give_up(moves)
        for lane in (self._small, self._large):
            kept = [item for item in lane.queue if not item.done and not moves(item)]
            self._held -= len(lane.queue) - len(kept)
            lane.queue = deque(kept)
        self._large_bytes = sum(len(item.payload) for item in self._large.queue)

    def _plan_look(self, now: float) -> None:
        self._look_timer = self._loop.call_at(now + _LOOK_S, self._look, now + _LOOK_S)

    def _look(self, planned_at: float) -> None:
        now = self._loop.time()
        watch = self._watch
        was_stalled = watch.stalled
        if now - planned_at > _LOOK_S:  # we were away ourselves: what was said meanwhile is still unread
            watch.expect(now)
        elif watch.look(now, self._channel.heard_at):
            self._channel.ping()
        if self._batches or watch.stalled:
            self._plan_look(now)
        else:
            self._look_timer = None
        if watch.stalled != was_stalled:
            self.owner.on_stall(self, watch.stalled)

    async def aclose(self) -> None:
        """Close the channel; what is on its way fails with UNAVAILABLE."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        await self._channel.aclose()
