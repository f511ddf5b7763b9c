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

from registry.failure import Code, Failure
from router.batch import Batch, Results, unreachable
from router.channel import Channel
from router.choice import LinkLoad
from router.hedge import Percentile
from router.item import Item
from router.outliers import Watched
from router.retry import RetryPolicy
from router.stall import StallWatch
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch

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
_FULL = Failure(Code.RESOURCE_EXHAUSTED, "too much waits for the scorers of the model already", "LINK_FULL", 100)


class Owner(Results, Protocol):
    """Who gave items to a link."""

    def on_answers(self, link: Link, item: Item, count: int) -> None:
        """A message brought `count` answers, `item`'s among them."""

    def on_stall(self, link: Link, stalled: bool) -> None:
        """A stall begins, or is over."""


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
            return unreachable(self._channel.failure)
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

    def answered(self, item: Item, count: int) -> None:
        """A message brought `count` answers, `item`'s among them."""
        self.owner.on_answers(self, item, count)

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
