"""A link to one scorer, over a real channel to a real server whose calls the test answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from registry.failure import Failure
from registry.front import Call, Method
from registry.server import listen
from router.admission import Gate
from router.channel import Channel
from router.item import Item
from router.link import PATH, Link
from router.retry import RetryPolicy
from router.route_table import Way
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResult, RawResults
from tests.fault_proxy import FaultProxy


class _Sink:
    def respond(self, _payload: bytes) -> None:
        raise AssertionError("a link answers through on_result")

    def fail(self, _failure: Failure) -> None:
        raise AssertionError("a link answers through on_result")


class LinkBench:
    """A scorer whose calls the test answers, and a link to it. `results`: what came back, by item; `unsent`: those that
    surely never reached the scorer.
    """

    proxy: FaultProxy  # where there is one

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.results: dict[Item, list[bytes | Failure]] = {}

    async def serve(self, front: str = "") -> str:
        """Start the scorer; its address."""
        self.front = listen("127.0.0.1:0", max_message_bytes=16 << 20, front=front)
        await self.front.start([Method(PATH.decode(), self._take, streaming=True)])
        return f"127.0.0.1:{self.front.port}"

    def connect(self, address: str) -> None:
        """Make the link."""
        self.channel = Channel(address, PATH)
        self.stalls: list[bool] = []
        self.answers: list[tuple[int, bool]] = []
        self.unsent: list[Item] = []
        self.gone: list[Item] = []
        self.link = Link("s1", self.channel, self, RetryPolicy())

    def _take(self, call: Call) -> None:
        self.calls.append(call)
        call.on_cancel = lambda: self.cancelled.append(call)

    def on_stall(self, link: Link, stalled: bool) -> None:
        assert link is self.link
        self.stalls.append(stalled)

    def on_result(self, item: Item, response: bytes | None, failure: Failure | None, sent: bool = True) -> None:
        item.done = True
        if not sent:
            self.unsent.append(item)
        self.results.setdefault(item, []).append(failure if failure is not None else response or b"")

    def on_answers(self, link: Link, item: Item, count: int) -> None:
        assert link is self.link
        self.answers.append((count, item.cold))

    def item(self, payload: bytes = b"x", timeout_s: float = 30.0) -> Item:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return Item(payload, deadline, _Sink(), Way("acme", "m", (self.link,), 1), Gate(), self.gone.append)

    def submit(self, *payloads: bytes) -> list[Item]:
        items = [self.item(payload) for payload in payloads]
        for item in items:
            assert self.link.submit(item) is None
        return items

    def batch(self, place: int) -> RawBatch:
        return RawBatch.FromString(self.calls[place].payload)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    async def aclose(self) -> None:
        await self.link.aclose()
        await self.front.stop()


def answer(call: Call, *indices: int, size: int = 0) -> None:
    """Answer some items of a batch, with so many bytes more each."""
    results = [RawResult(index=index, response=b"r%d" % index + bytes(size)) for index in indices]
    call.respond(RawResults(results=results).SerializeToString())
