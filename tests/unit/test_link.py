"""A link to one scorer, over a real channel to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from registry.errors import DrainingError, InvalidRequestError
from registry.failure import Failure
from registry.status import failure_of
from router.item import Item
from router.link import (
    LARGE_BYTES,
    MAX_BYTES,
    MAX_ITEMS,
    MAX_LARGE_UNANSWERED,
    MAX_OUT_ITEMS,
    MAX_UNANSWERED,
    MAX_WAITING_BYTES,
    MAX_WAITING_ITEMS,
)
from scoremesh.forwarding.v1.forwarding_pb2 import RawResult, RawResults
from scoremesh.scoring.v1.scoring_pb2 import Residency, ScoreResponse
from tests.linked import LinkBench, answer


@pytest.fixture
async def bench() -> AsyncIterator[LinkBench]:
    bench = LinkBench()
    bench.connect(await bench.serve())
    yield bench
    await bench.aclose()


async def _fill(bench: LinkBench) -> list[Item]:
    """As many batches as may be unanswered."""
    items = []
    for number in range(MAX_UNANSWERED):
        items += bench.submit(b"full%d" % number)
        await bench.wait(lambda: len(bench.calls) == number + 1)  # noqa: B023
    return items


async def test_what_comes_in_one_turn_travels_together(bench: LinkBench) -> None:
    items = bench.submit(b"a", b"b", b"c")
    await bench.wait(lambda: bool(bench.calls))
    assert list(bench.batch(0).items) == [b"a", b"b", b"c"]
    assert all(29_000 < ms <= 30_001 for ms in bench.batch(0).timeout_ms)
    answer(bench.calls[0], 2, 0)
    await bench.wait(lambda: len(bench.results) == 2)
    answer(bench.calls[0], 1)
    bench.calls[0].end()
    await bench.wait(lambda: len(bench.results) == 3)
    assert [bench.results[item] for item in items] == [[b"r0"], [b"r1"], [b"r2"]]
    assert bench.link.idle


async def test_a_batch_is_bounded(bench: LinkBench) -> None:
    bench.submit(*[b"i"] * (MAX_ITEMS + 5))
    await bench.wait(lambda: len(bench.calls) == 2)
    assert [len(bench.batch(place).items) for place in (0, 1)] == [MAX_ITEMS, 5]
    small = MAX_BYTES // 100
    bench.submit(*[bytes(small)] * 150)
    await bench.wait(lambda: len(bench.calls) == 4)
    assert sorted(len(bench.batch(place).items) for place in (2, 3)) == [49, 101]


async def test_unanswered_batches_are_bounded_and_the_rest_waits(bench: LinkBench) -> None:
    await _fill(bench)
    waiting = bench.submit(b"w1") + bench.submit(b"w2")
    await asyncio.sleep(0)
    answer(bench.calls[1], 0)
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert list(bench.batch(MAX_UNANSWERED).items) == [b"w1", b"w2"]
    answer(bench.calls[-1], 0, 1)
    await bench.wait(lambda: all(item in bench.results for item in waiting))


async def test_large_items_travel_alone_and_in_places_of_their_own(bench: LinkBench) -> None:
    large = [bytes([number]) * (LARGE_BYTES + 1) for number in range(MAX_LARGE_UNANSWERED + 1)]
    bench.submit(large[0], b"a", *large[1:], b"b")
    await bench.wait(lambda: len(bench.calls) == 1 + MAX_LARGE_UNANSWERED)
    batches = [list(bench.batch(place).items) for place in range(len(bench.calls))]
    assert batches[0] == [b"a", b"b"], "small ones leave first"
    assert batches[1:] == [[item] for item in large[:-1]]
    for number in range(MAX_UNANSWERED - 1):
        bench.submit(b"s%d" % number)
        await bench.wait(lambda: len(bench.calls) == 2 + MAX_LARGE_UNANSWERED + number)  # noqa: B023
    answer(bench.calls[0], 0, 1)
    bench.submit(b"next")
    await bench.wait(lambda: list(bench.batch(-1).items) == [b"next"])
    answer(bench.calls[1], 0)
    await bench.wait(lambda: list(bench.batch(-1).items) == [large[-1]])


async def test_what_waits_is_bounded(bench: LinkBench) -> None:
    await _fill(bench)
    waiting = bench.submit(*[b"w"] * MAX_WAITING_ITEMS)
    assert bench.link._held == MAX_UNANSWERED + MAX_WAITING_ITEMS
    refusal = bench.link.submit(bench.item())
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (8, "LINK_FULL")
    waiting[0].cancel()
    assert bench.link.submit(bench.item()) is None, "its caller has gone, so there is room for another one"
    assert bench.link.submit(bench.item()) is not None
    assert bench.link._held == MAX_UNANSWERED + MAX_WAITING_ITEMS


async def test_bytes_that_wait_are_bounded(bench: LinkBench) -> None:
    quarter = bytes(MAX_WAITING_BYTES // 4)
    bench.submit(*[quarter] * MAX_LARGE_UNANSWERED)
    await bench.wait(lambda: len(bench.calls) == MAX_LARGE_UNANSWERED)
    waiting = [bench.item(quarter) for _ in range(5)]
    assert [bench.link.submit(item) is None for item in waiting] == [True] * 4 + [False]
    assert bench.link.submit(bench.item()) is None, "small ones have room of their own"
    waiting[1].cancel()
    assert bench.link.submit(waiting[4]) is None
    assert bench.link.submit(bench.item(quarter)) is not None


async def test_what_is_out_is_bounded(bench: LinkBench) -> None:
    """A scorer that says at once that all is cold holds no place, but what it has is counted."""
    for batch in range(MAX_OUT_ITEMS // MAX_ITEMS):
        bench.submit(*[b"c"] * MAX_ITEMS)
        await bench.wait(lambda: len(bench.calls) == batch + 1)  # noqa: B023
        bench.calls[-1].respond(b"")
    await bench.wait(lambda: bench.link._held == MAX_OUT_ITEMS)
    waits = bench.submit(b"waits")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(bench.calls) == MAX_OUT_ITEMS // MAX_ITEMS
    answer(bench.calls[0], 7)
    await bench.wait(lambda: len(bench.calls) == MAX_OUT_ITEMS // MAX_ITEMS + 1)
    answer(bench.calls[-1], 0)
    await bench.wait(lambda: waits[0] in bench.results)


async def test_items_can_be_taken_back(bench: LinkBench) -> None:
    """Those that nobody takes stay, and are answered."""
    out = await _fill(bench)
    waiting = bench.submit(b"w0", b"w1")
    taken = {out[0], out[1], waiting[0]}
    bench.link.take_back(lambda item: item in taken)
    assert bench.link._held == MAX_UNANSWERED - 2 + 1
    await bench.wait(lambda: set(bench.cancelled) == {bench.calls[0], bench.calls[1]})
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    for call in bench.calls[2:]:
        answer(call, 0)
    await bench.wait(lambda: set(bench.results) == {*out[2:], waiting[1]})
    assert bench.link.idle


async def test_what_comes_later_tells_whether_it_was_cold(bench: LinkBench) -> None:
    """The first message has what was in memory; a later answer waited for its model, or for a long prediction."""
    items = bench.submit(b"warm", b"warm", b"cold", b"long", b"slow")
    await bench.wait(lambda: bool(bench.calls))
    answer(bench.calls[0], 0, 1)
    await bench.wait(lambda: len(bench.results) == 2)
    assert [item.cold for item in items] == [False, False, True, True, True]
    for index, residency in ((2, Residency.RESIDENCY_COLD), (3, Residency.RESIDENCY_HIT)):
        response = ScoreResponse(model_version="1", residency=residency, served_by="s1").SerializeToString()
        bench.calls[0].respond(RawResults(results=[RawResult(index=index, response=response)]).SerializeToString())
    await bench.wait(lambda: len(bench.results) == 4)
    assert [item.cold for item in items] == [False, False, True, False, True]
    assert bench.answers == [(2, False), (1, True), (1, False)]


async def test_an_empty_first_message_frees_the_place_of_a_cold_batch(bench: LinkBench) -> None:
    await _fill(bench)
    bench.submit(b"next")
    bench.calls[0].respond(b"")
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert bench.results == {}


async def test_a_batch_whose_callers_have_all_gone_is_cancelled(bench: LinkBench) -> None:
    one, two = bench.submit(b"1", b"2")
    await bench.wait(lambda: bool(bench.calls))
    one.cancel()
    bench.submit(b"another")
    await bench.wait(lambda: len(bench.calls) == 2)
    assert bench.cancelled == []
    two.cancel()
    await bench.wait(lambda: bench.cancelled == [bench.calls[0]])
    assert bench.results == {}


async def test_batches_whose_callers_have_gone_leave_their_places(bench: LinkBench) -> None:
    """A scorer hung while its callers' deadlines passed; the link must work when it comes back."""
    for item in await _fill(bench):
        item.cancel()
    (item,) = bench.submit(b"alive")
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    answer(bench.calls[-1], 0)
    await bench.wait(lambda: bench.results == {item: [b"r0"]})
    assert bench.link.idle


async def test_an_item_whose_caller_has_gone_is_not_sent(bench: LinkBench) -> None:
    await _fill(bench)
    gone, stays = bench.submit(b"gone", b"stays")
    gone.cancel()
    assert gone.payload == b""
    answer(bench.calls[0], 0)
    await bench.wait(lambda: len(bench.calls) == MAX_UNANSWERED + 1)
    assert list(bench.batch(MAX_UNANSWERED).items) == [b"stays"]
    assert not stays.done


async def test_an_item_without_time_is_not_sent(bench: LinkBench) -> None:
    late = bench.item(timeout_s=0.001)
    bench.link.submit(late)
    await bench.wait(lambda: late in bench.results)
    (failure,) = bench.results[late]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (4, "DEADLINE_EXCEEDED")
    assert bench.calls == []


async def test_results_carry_failures(bench: LinkBench) -> None:
    (item,) = bench.submit(b"1")
    await bench.wait(lambda: bool(bench.calls))
    result = RawResult(index=0, code=8, message="full", reason="OVERLOADED", retry_after_ms=9)
    bench.calls[0].respond(RawResults(results=[result]).SerializeToString())
    await bench.wait(lambda: item in bench.results)
    assert bench.results[item] == [Failure(8, "full", "OVERLOADED", 9)]


@pytest.mark.parametrize("what", ["twice", "beyond", "garbage", "nothing"])
async def test_a_scorer_that_answers_nonsense(bench: LinkBench, what: str) -> None:
    one, two = bench.submit(b"1", b"2")
    await bench.wait(lambda: bool(bench.calls))
    if what == "garbage":
        bench.calls[0].respond(b"\xff\xff\xff")
    elif what != "nothing":
        answer(bench.calls[0], 0, 0 if what == "twice" else 77)
    bench.calls[0].end()
    await bench.wait(lambda: len(bench.results) == 2)
    (failure,) = bench.results[two]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (13, "BAD_ANSWER")
    assert len(bench.results[one]) == 1
    assert bench.link.idle


async def test_a_call_that_fails_fails_its_items(bench: LinkBench) -> None:
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


async def test_an_unreachable_scorer(bench: LinkBench) -> None:
    await bench.front.stop()
    items = bench.submit(b"1", b"2")
    await bench.wait(lambda: len(bench.results) == 2)
    assert bench.unsent == items, "the scorer never got them"
    assert not bench.link.reachable
    refusal = bench.link.submit(bench.item())
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (14, "SCORER_UNREACHABLE")
    for item in items:
        (failure,) = bench.results[item]
        assert isinstance(failure, Failure)
        assert (failure.code, failure.reason) == (14, "SCORER_UNREACHABLE")


async def test_closing_fails_what_is_on_its_way(bench: LinkBench) -> None:
    (item,) = bench.submit(b"1")
    await bench.wait(lambda: bool(bench.calls))
    await bench.link.aclose()
    (failure,) = bench.results[item]
    assert isinstance(failure, Failure)
    assert failure.code == 14
