"""The forwarder, between calls and links that only record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from types import MappingProxyType

import pytest

from registry.errors import InvalidRequestError
from registry.failure import Failure
from registry.model import Member
from registry.placement import Placement
from router.forward import Forwarder
from router.item import Item
from router.link import Link
from router.retry import RetryPolicy
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, RawResults
from scoremesh.scoring.v1.scoring_pb2 import ScoreRequest

_DOWN = Failure(14, "not reachable", "SCORER_UNREACHABLE")
_REQUEST = ScoreRequest(tenant="acme", model="m", row_count=1, dense_double=[1.0]).SerializeToString()


class FakeCall:
    def __init__(self, payload: bytes, timeout_s: float = 10.0) -> None:
        self.payload = payload
        self.deadline = asyncio.get_running_loop().time() + timeout_s
        self.on_cancel: Callable[[], None] | None = None
        self.sent: list[bytes] = []
        self.failure: Failure | None = None
        self.ended = False

    def respond(self, payload: bytes) -> None:
        self.sent.append(payload)

    def end(self) -> None:
        self.ended = True

    def fail(self, failure: Failure) -> None:
        self.failure = failure


class FakeLink(Link):
    def __init__(self) -> None:
        self.items: list[Item] = []

    def submit(self, item: Item) -> None:
        self.items.append(item)


class Bench:
    def __init__(self, members: int = 4) -> None:
        self.links: dict[str, FakeLink] = {f"s{i}": FakeLink() for i in range(members)}
        self.placement = Placement([_member(id_) for id_ in self.links])
        self.forwarder = Forwarder(RetryPolicy(), default_timeout_s=3.0)
        self.forwarder.use(self.placement, MappingProxyType(self.links), "nobody is there")

    def ranked(self) -> list[FakeLink]:
        return [self.links[member.id] for member in self.placement.candidates("acme", "m")]

    def submitted(self) -> list[Item]:
        return [item for link in self.links.values() for item in link.items]


def _member(member_id: str) -> Member:
    return Member(member_id, "127.0.0.1:1", member_id, "z", "p", 100, "i")


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_request_goes_to_its_first_owner_as_it_came(bench: Bench) -> None:
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    (item,) = bench.ranked()[0].items
    assert item.payload == _REQUEST
    assert item.deadline == call.deadline
    bench.forwarder.on_result(item, b"answer", None)
    assert call.sent == [b"answer"]
    bench.forwarder.on_result(item, b"again", None)
    assert call.sent == [b"answer"]


async def test_a_call_without_deadline_gets_one(bench: Bench) -> None:
    call = FakeCall(_REQUEST, inf)
    bench.forwarder.score(call)
    (item,) = bench.submitted()
    now = asyncio.get_running_loop().time()
    assert now < item.deadline <= now + 3.0


async def test_an_unreachable_scorer_is_replaced_by_the_next_ones(bench: Bench) -> None:
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    ranked = bench.ranked()
    for place in range(3):
        (item,) = ranked[place].items
        assert call.failure is None
        bench.forwarder.on_result(item, None, _DOWN)
    assert call.failure == _DOWN
    assert ranked[3].items == [], "three attempts are enough"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8, 9, 13])
async def test_other_failures_are_final(bench: Bench, code: int) -> None:
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    failure = Failure(code, "final", "FINAL", 5)
    bench.forwarder.on_result(bench.submitted()[0], None, failure)
    assert call.failure == failure
    assert len(bench.submitted()) == 1


async def test_a_retry_uses_the_links_of_the_moment(bench: Bench) -> None:
    """The second candidate has left meanwhile."""
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    candidates = bench.placement.candidates("acme", "m")
    left = {id_: link for id_, link in bench.links.items() if id_ != candidates[1].id}
    bench.forwarder.use(bench.placement, left, "nobody is there")
    bench.forwarder.on_result(bench.submitted()[0], None, _DOWN)
    assert [len(link.items) for link in bench.ranked()[:3]] == [1, 0, 1]


async def test_nobody_is_alive() -> None:
    bench = Bench(0)
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    assert call.failure == Failure(14, "nobody is there", "NO_SCORER")


async def test_before_the_first_view_the_text_says_so() -> None:
    call = FakeCall(_REQUEST)
    Forwarder(RetryPolicy(), default_timeout_s=1.0).score(call)
    assert call.failure is not None
    assert "not yet learned" in call.failure.message


async def test_a_deadline_that_is_over(bench: Bench) -> None:
    call = FakeCall(_REQUEST, -1.0)
    bench.forwarder.score(call)
    assert call.failure is not None
    assert call.failure.code == 4
    assert bench.submitted() == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ScoreRequest(model="m"), "tenant is missing"),
        (ScoreRequest(tenant="t"), "model is missing"),
        (ScoreRequest(tenant="t" * 129, model="m"), "is not a valid name"),
        (ScoreRequest(tenant="t", model="m" * 1_000_000), "is not a valid name"),
    ],
)
async def test_names_that_cannot_be_are_not_placed(bench: Bench, request_: ScoreRequest, words: str) -> None:
    """Placements are remembered by name, so names must be short."""
    call = FakeCall(request_.SerializeToString())
    bench.forwarder.score(call)
    assert call.failure is not None
    assert (call.failure.code, call.failure.reason) == (3, "INVALID_REQUEST")
    assert words in call.failure.message
    assert len(call.failure.message) < 400
    assert bench.submitted() == []


async def test_a_cancelled_call_is_never_answered(bench: Bench) -> None:
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    (item,) = bench.submitted()
    assert call.on_cancel is not None
    call.on_cancel()
    assert item.done
    bench.forwarder.on_result(item, b"late", None)
    bench.forwarder.on_result(item, None, _DOWN)
    assert (call.sent, call.failure) == ([], None)
    assert len(bench.submitted()) == 1, "nothing is tried again for nobody"


def _batch(*items: bytes, timeout_ms: tuple[int, ...] = ()) -> bytes:
    return RawBatch(items=items, timeout_ms=timeout_ms).SerializeToString()


async def test_a_batch_is_answered_once_in_order(bench: Bench) -> None:
    call = FakeCall(_batch(_REQUEST, b"\xff\xff", _REQUEST))
    bench.forwarder.score_batch(call)
    first, last = bench.ranked()[0].items
    bench.forwarder.on_result(last, b"last", None)
    assert call.sent == []
    bench.forwarder.on_result(first, b"first", None)
    (payload,) = call.sent
    results = RawResults.FromString(payload).results
    assert [(r.index, r.code, r.response) for r in results] == [(0, 0, b"first"), (1, 3, b""), (2, 0, b"last")]


async def test_a_batch_without_a_single_good_item(bench: Bench) -> None:
    for stream in (False, True):
        call = FakeCall(_batch(b"\xff", b""))
        (bench.forwarder.stream_score_batch if stream else bench.forwarder.score_batch)(call)
        await asyncio.sleep(0)
        assert [r.code for r in RawResults.FromString(b"".join(call.sent)).results] == [3, 3]
        assert call.ended is stream


async def test_a_stream_answers_in_parts(bench: Bench) -> None:
    call = FakeCall(_batch(_REQUEST, _REQUEST, _REQUEST))
    bench.forwarder.stream_score_batch(call)
    items = bench.ranked()[0].items
    bench.forwarder.on_result(items[1], b"b", None)
    bench.forwarder.on_result(items[2], b"c", None)
    await asyncio.sleep(0)
    assert [r.index for r in RawResults.FromString(call.sent[0]).results] == [1, 2]
    assert not call.ended
    bench.forwarder.on_result(items[0], b"a", None)
    await asyncio.sleep(0)
    assert [r.index for r in RawResults.FromString(call.sent[1]).results] == [0]
    assert call.ended


async def test_times_of_items_never_pass_the_deadline_of_the_call(bench: Bench) -> None:
    call = FakeCall(_batch(_REQUEST, _REQUEST, _REQUEST, timeout_ms=(50, 0, 4_000_000_000)))
    before = asyncio.get_running_loop().time()
    bench.forwarder.stream_score_batch(call)
    deadlines = [item.deadline for item in bench.submitted()]
    assert before + 0.05 <= deadlines[0] < before + 5
    assert deadlines[1:] == [call.deadline, call.deadline]


async def test_cancelling_a_batch_drops_every_item(bench: Bench) -> None:
    call = FakeCall(_batch(_REQUEST, _REQUEST))
    bench.forwarder.score_batch(call)
    assert call.on_cancel is not None
    call.on_cancel()
    assert all(item.done for item in bench.submitted())


@pytest.mark.parametrize(
    "payload", [b"\xff\xff", b"", _batch(*[b""] * 1025), _batch(_REQUEST, _REQUEST, timeout_ms=(1,))]
)
async def test_a_batch_that_is_none(bench: Bench, payload: bytes) -> None:
    for handler in (bench.forwarder.score_batch, bench.forwarder.stream_score_batch):
        with pytest.raises(InvalidRequestError):
            handler(FakeCall(payload))
    assert bench.submitted() == []
