"""One request on its way through a router: where it may go, where it has been, and who gets the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from registry.failure import Failure
from router.admission import Gate

if TYPE_CHECKING:
    from router.route_table import Way


class Sink(Protocol):
    """Who gets the answer of an item; a call of a front is one."""

    def respond(self, payload: bytes) -> None:
        """A serialized ScoreResponse."""

    def fail(self, failure: Failure) -> None:
        """The item failed."""


class Item:
    """`payload`: a serialized ScoreRequest. `deadline`: on the loop's clock, seconds. `gate`: by which it was let in.
    `on_cancel`: told once, if the caller goes before the item is `done`. `withdraw`: set by the batch that carries the
    item; called when the caller has gone. `way`, `place`: where it is now, place -1 for nowhere; `sent_at` since when;
    `tried`: the ids of members where it was before. `cold`: it waits, or waited, for its model to be loaded. `twin`:
    the same request on another member, a `Hedge` or what it hedges.
    """

    is_hedge = False

    __slots__ = (
        "cold",
        "deadline",
        "done",
        "gate",
        "on_cancel",
        "payload",
        "place",
        "sent_at",
        "sink",
        "tried",
        "twin",
        "way",
        "withdraw",
    )

    def __init__(
        self, payload: bytes, deadline: float, sink: Sink, way: Way, gate: Gate, on_cancel: Callable[[Item], None]
    ) -> None:
        self.payload = payload
        self.deadline = deadline
        self.way = way
        self.sink = sink
        self.gate = gate
        self.on_cancel = on_cancel
        self.place = -1
        self.sent_at = 0.0
        self.tried: tuple[str, ...] = ()
        self.cold = self.done = False
        self.twin: Item | None = None
        self.withdraw: Callable[[], None] | None = None

    def cancel(self) -> None:
        """The caller has gone: drop the item where it is. A queue drops what is done when it comes to it, which may
        take a while behind a scorer that hangs, so the bytes go now.
        """
        if self.done:
            return
        self.done = True
        self.payload = b""
        self.on_cancel(self)
        if self.withdraw is not None:
            self.withdraw()


class Hedge(Item):
    """A second attempt beside the first one, its `twin`; it has that one's gate and sink."""

    __slots__ = ()
    is_hedge = True
