"""A finished call leaves nothing to the garbage collector: request bytes are freed when the answer is out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from math import inf

import pytest

from registry.failure import Failure
from registry.model import Member
from registry.placement import Placement
from router.adaptive_limit import AdaptiveLimit
from router.admission import Admission
from router.choice import LinkLoad
from router.counters import Counters
from router.forward import Forwarder
from router.item import Item
from router.link import Link
from router.link_health import LinkHealth
from router.retry import RetryPolicy
from router.route_table import RouteTable
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest


class FinishedCall:
    """A call as the fronts have it: `on_cancel` is dropped when it's finished."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.deadline = inf
        self.on_cancel: Callable[[], None] | None = None
        self.answered = b""

    def respond(self, payload: bytes) -> None:
        self.on_cancel = None
        self.answered = payload

    def end(self) -> None:
        self.on_cancel = None

    def fail(self, failure: Failure) -> None:
        self.on_cancel = None
        raise AssertionError(failure)


class EchoLink(Link):
    """Answers at once with the request's bytes."""

    def __init__(self) -> None:
        self.member_id = "a"
        self.load = LinkLoad()
        self.forwarder: Forwarder | None = None

    @property
    def stalled(self) -> bool:
        return False

    def submit(self, item: Item) -> None:
        assert self.forwarder is not None
        self.forwarder.on_result(item, item.payload, None)


@pytest.mark.asyncio
async def test_a_score_call_is_freed_without_the_collector() -> None:
    member = Member("a", "127.0.0.1:1", "h", "z", "p", 1, "1")
    counters, link = Counters(), EchoLink()
    admission, health = Admission(AdaptiveLimit()), LinkHealth(counters)
    link.forwarder = forwarder = Forwarder(RetryPolicy(), admission, health, counters, default_timeout_s=1.0)
    forwarder.use(RouteTable(Placement([member]), {"a": link}, ""))
    gc.collect()
    gc.disable()
    try:
        call = FinishedCall(ScoreRequest(tenant="acme", model="lead").SerializeToString())
        forwarder.score(call)
        assert call.answered == call.payload
        gone = weakref.ref(call)
        del call
        assert gone() is None
    finally:
        gc.enable()
