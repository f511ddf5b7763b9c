"""One request on its way through a router: where it may go, how often it was tried, and who gets the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from registry.failure import Failure
from registry.model import Member


class Sink(Protocol):
    """Who gets the answer of an item."""

    def answer(self, response: bytes) -> None:
        """A serialized ScoreResponse."""

    def refuse(self, failure: Failure) -> None:
        """The item failed."""


class Item:
    """`payload`: a serialized ScoreRequest. `deadline`: on the loop's clock, seconds. `withdraw`: set by the batch that
    carries the item; called when the caller has gone.
    """

    __slots__ = ("attempts", "candidates", "deadline", "done", "payload", "sink", "withdraw")

    def __init__(self, payload: bytes, deadline: float, candidates: tuple[Member, ...], sink: Sink) -> None:
        self.payload = payload
        self.deadline = deadline
        self.candidates = candidates
        self.sink = sink
        self.attempts = 0
        self.done = False
        self.withdraw: Callable[[], None] | None = None

    def cancel(self) -> None:
        """The caller has gone: drop the item where it is. A queue drops what is done when it comes to it, which may
        take a while behind a scorer that hangs, so the bytes go now.
        """
        self.done = True
        self.payload = b""
        if self.withdraw is not None:
            self.withdraw()
