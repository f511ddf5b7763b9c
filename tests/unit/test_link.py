"""A link to one scorer, over a real channel to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from registry.errors import DrainingError, InvalidRequestError
from registry.failure import Failure
from registry.front import Call, Method
from registry.server import listen
from registry.status import failure_of
from router.channel import Channel
from router.item import Item
from router.link import MAX_BYTES, MAX_ITEMS, MAX_UNANSWERED, PATH, Link
from router.retry import RetryPolicy
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResult, RawResults


class _Sink:
    def answer(self, _response: bytes) -> None:
        raise AssertionError("a link answers through on_result")

    def refuse(self, _failure: Failure) -> None:
        raise AssertionError("a link answers through on_result")


class Bench:
    """A scorer whose calls the test answers, and a link to it. `results`: what came back, by item."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.results: dict[Item, list[bytes | Failure]] = {}

    async def start(self) -> None:
        self.front = listen("127.0.0.1:0", max_message_bytes=16 << 20)
        await self.front.start([Method(PATH.decode(), self._take, streaming=True)])
        self.channel = Channel(f"127.0.0.1:{self.front.port}", PATH)
        self.link = Link(self.channel, self._on_result, RetryPolicy())

    def _take(self, call: Call) -> None:
        self.calls.append(call)
        call.on_cancel = lambda: self.cancelled.append(call)

    def _on_result(self, item: Item, response: bytes | None, failure: Failure | None) -> None:
        item.done = True
        self.results.setdefault(item, []).append(failure if failure is not None else response or b"")

    def item(self, payload: bytes = b"x", timeout_s: float = 30.0) -> Item:
        return Item(payload, asyncio.get_running_loop().time() + timeout_s, (), _Sink())

    def submit(self, *payloads: bytes) -> list[Item]:
        items = [self.item(payload) for payload in payloads]
        for item in items:
            self.link.submit(item)
        return items

    def batch(self, place: int) -> RawBatch:
        return RawBatch.FromString(self.calls[place].payload)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.start()
    yield bench
    await bench.link.aclose()
    await bench.front.stop()


def _answer(call: Call, *indices: int) -> None:
    results = [RawResult(index=index, response=b"r%d" % index) for index in indices]
    call.respond(RawResults(results=results).SerializeToString())


async def _fill(bench: Bench) -> list[Item]:
    """As many batches as may be unanswered."""
    items = []
    for number in range(MAX_UNANSWERED):
        items += bench.submit(b"full%d" % number)
        await bench.wait(lambda: len(bench.calls) == number + 1)  # noqa: B023
    return items


async def test_what_comes_in_one_turn_travels_together(bench: Bench) -> None:
    items = bench.submit(b"a", b"b", b"c")
    await bench.wait(lambda: bool(bench.calls))
    assert list(bench.batch(0).items) == [b"a", b"b", b"c"]
    assert all(29_000 < ms <= 30_001 for ms in bench.batch(0).timeout_ms)
    _answer(bench.calls[0], 2, 0)
    await bench.wait(lambda: len(bench.results) == 2)
    _answer(bench.calls[0], 1)
    bench.calls[0].end()
    await bench.wait(lambda: len(bench.results) == 3)
    assert [bench.results[item] for item in items] == [[b"r0"], [b"r1"], [b"r2"]]
    assert bench.link.idle


async def test_a_batch_is_bounded(bench: Bench) -> None:
    bench.submit(*[b"i"] * (MAX_ITEMS + 5))
    await bench.wait(lambda: len(bench.calls) == 2)
    assert [len(bench.batch(place).items) for place in (0, 1)] == [MAX_ITEMS, 5]
    bench.submit(*[bytes(MAX_BYTES // 3)] * 7)
    await bench.wait(lambda: len(bench.calls) == 4)
    assert sorted(len(bench.batch(place).items) for place in (2, 3)) == [3, 4]


async def test_unanswered_batches_are_bounded_and_the_rest_waits(bench: Bench) -> None:
    await _fill(bench)
    waiting = bench.submit(b"w1") + bench.submit(b"w2")
    await asyncio.sleep(0)
    _answer(bench.calls[1], 0)
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert list(bench.batch(MAX_UNANSWERED).items) == [b"w1", b"w2"]
    _answer(bench.calls[-1], 0, 1)
    await bench.wait(lambda: all(item in bench.results for item in waiting))


async def test_an_empty_first_message_frees_the_place_of_a_cold_batch(bench: Bench) -> None:
    await _fill(bench)
    bench.submit(b"next")
    bench.calls[0].respond(b"")
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert bench.results == {}


async def test_a_batch_whose_callers_have_all_gone_is_cancelled(bench: Bench) -> None:
    one, two = bench.submit(b"1", b"2")
    await bench.wait(lambda: bool(bench.calls))
    one.cancel()
    bench.submit(b"another")
    await bench.wait(lambda: len(bench.calls) == 2)
    assert bench.cancelled == []
    two.cancel()
    await bench.wait(lambda: bench.cancelled == [bench.calls[0]])
    assert bench.results == {}


async def test_batches_whose_callers_have_gone_leave_their_places(bench: Bench) -> None:
    """A scorer hung while its callers' deadlines passed; the link must work when it comes back."""
    for item in await _fill(bench):
        item.cancel()
    (item,) = bench.submit(b"alive")
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    _answer(bench.calls[-1], 0)
    await bench.wait(lambda: bench.results == {item: [b"r0"]})
    assert bench.link.idle


async def test_an_item_whose_caller_has_gone_is_not_sent(bench: Bench) -> None:
    await _fill(bench)
    gone, stays = bench.submit(b"gone", b"stays")
    gone.cancel()
    assert gone.payload == b""
    _answer(bench.calls[0], 0)
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert list(bench.batch(MAX_UNANSWERED).items) == [b"stays"]
    assert not stays.done


async def test_an_item_without_time_is_not_sent(bench: Bench) -> None:
    late = bench.item(timeout_s=0.001)
    bench.link.submit(late)
    await bench.wait(lambda: late in bench.results)
    (failure,) = bench.results[late]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (4, "DEADLINE_EXCEEDED")
    assert bench.calls == []


async def test_results_carry_failures(bench: Bench) -> None:
    (item,) = bench.submit(b"1")
    await bench.wait(lambda: bool(bench.calls))
    result = RawResult(index=0, code=8, message="full", reason="OVERLOADED", retry_after_ms=9)
    bench.calls[0].respond(RawResults(results=[result]).SerializeToString())
    await bench.wait(lambda: item in bench.results)
    assert bench.results[item] == [Failure(8, "full", "OVERLOADED", 9)]


@pytest.mark.parametrize("what", ["twice", "beyond", "garbage", "nothing"])
async def test_a_scorer_that_answers_nonsense(bench: Bench, what: str) -> None:
    one, two = bench.submit(b"1", b"2")
    await bench.wait(lambda: bool(bench.calls))
    if what == "garbage":
        bench.calls[0].respond(b"\xff\xff\xff")
    elif what != "nothing":
        _answer(bench.calls[0], 0, 0 if what == "twice" else 77)
    bench.calls[0].end()
    await bench.wait(lambda: len(bench.results) == 2)
    (failure,) = bench.results[two]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (13, "BAD_ANSWER")
    assert len(bench.results[one]) == 1
    assert bench.link.idle


async def test_a_call_that_fails_fails_its_items(bench: Bench) -> None:
    (one,) = bench.submit(b"1")
    await bench.wait(lambda: len(bench.calls) == 1)
    bench.calls[0].fail(failure_of(DrainingError("scorer a is shutting down")))
    await bench.wait(lambda: one in bench.results)
    (failure,) = bench.results[one]
    assert failure == Failure(14, "the scorer is not reachable: scorer a is shutting down", "SCORER_UNREACHABLE")
    (two,) = bench.submit(b"2")
    await bench.wait(lambda: len(bench.calls) == 2)
    bench.calls[1].fail(failure_of(InvalidRequestError("no")))
    await bench.wait(lambda: two in bench.results)
    assert bench.results[two] == [Failure(3, "no", "SCORER_FAILED")]


async def test_an_unreachable_scorer(bench: Bench) -> None:
    await bench.front.stop()
    items = bench.submit(b"1", b"2")
    await bench.wait(lambda: len(bench.results) == 2)
    for item in items:
        (failure,) = bench.results[item]
        assert isinstance(failure, Failure)
        assert (failure.code, failure.reason) == (14, "SCORER_UNREACHABLE")


async def test_closing_fails_what_is_on_its_way(bench: Bench) -> None:
    (item,) = bench.submit(b"1")
    await bench.wait(lambda: bool(bench.calls))
    await bench.link.aclose()
    (failure,) = bench.results[item]
    assert isinstance(failure, Failure)
    assert failure.code == 14
