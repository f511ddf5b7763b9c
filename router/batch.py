"""Items that travel together to a scorer, as one StreamScoreBatch call.

Invariants: each item leaves the batch once: answered, failed, given away, or because its caller has gone; the link is
told how many left. When no item is left the call is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from registry.failure import Code, Failure
from router.channel import Channel, Handle
from router.item import Item
from scoremesh.forwarding.v1.forwarding_pb2 import RawResults, ScoreResponseHead

_HIT = 1  # scoremesh.scoring.v1.RESIDENCY_HIT


class Results(Protocol):
    """Takes what becomes of items."""

    def on_result(self, item: Item, response: bytes | None, failure: Failure | None, sent: bool = True) -> None:
        """What became of an item. `sent`: False where the scorer surely never got it."""


class Carrier(Protocol):
    """The link of a batch."""

    @property
    def owner(self) -> Results:
        """Who gave the items."""

    def heard(self, batch: Batch, *, answered: bool) -> None:
        """The first that is heard of a batch; `answered`: by the scorer itself."""

    def answered(self, item: Item, count: int) -> None:
        """A message brought `count` answers, `item`'s among them."""

    def settle(self, batch: Batch, items: int, size_bytes: int) -> None:
        """So many items of a batch aren't out any more; with the last one its bytes."""


class Batch:
    """Items that travel together; the receiver of one call."""

    __slots__ = ("_handle", "_heard", "_items", "_left", "_link", "_size_bytes", "is_large", "sent_at")

    def __init__(self, link: Carrier, items: list[Item], size_bytes: int, now: float, *, is_large: bool) -> None:
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
        withdraw = self._withdraw
        for item in self._items:
            if item is not None:
                item.withdraw = withdraw
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
        link, items, left, answers = self._link, self._items, self._left, 0
        for result in results:
            index = result.index
            item = items[index] if index < len(items) else None
            if item is None:
                continue
            items[index] = item.withdraw = None  # as `_take` does, without a call for each item
            self._left -= 1
            if item.done:
                continue
            if result.code:
                failure = Failure(result.code, result.message, result.reason, result.retry_after_ms)
                link.owner.on_result(item, None, failure)
                continue
            if not is_first:
                item.cold = _was_cold(result.response)
            if not answers:
                link.answered(item, len(results))
                answers = 1
            link.owner.on_result(item, result.response, None)
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
        return unreachable(message)
    if status == 0:
        return Failure(Code.INTERNAL, "the scorer left an item unanswered", "BAD_ANSWER")
    return Failure(status, message, "SCORER_FAILED")


def unreachable(why: str) -> Failure:
    """The scorer can't be reached."""
    return Failure(Code.UNAVAILABLE, f"the scorer is not reachable: {why}", "SCORER_UNREACHABLE")
