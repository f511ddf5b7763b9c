"""The forwarder, between calls and links that only record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf

import pytest

from registry.errors import InvalidRequestError
from registry.failure import Failure
from registry.model import Member, TenantRecord
from registry.placement import Placement
from router.adaptive_limit import AdaptiveLimit
from router.admission import Admission
from router.choice import LinkLoad
from router.counters import Counters
from router.forward import Forwarder
from router.hedge import Percentile
from router.item import Item
from router.link import Link
from router.link_health import LinkHealth
from router.outliers import Watched
from router.retry import RetryPolicy
from router.route_table import RouteTable
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
    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.load = LinkLoad()
        self.watched = Watched(self.load)
        self.p95 = Percentile()
        self.items: list[Item] = []
        self.refusal: Failure | None = None
        self.is_reachable = True
        self.is_stalled = False

    def take_back(self, moves: Callable[[Item], bool]) -> None:
        self.items = [item for item in self.items if not moves(item)]

    def submit(self, item: Item) -> Failure | None:
        if self.refusal is None:
            self.items.append(item)
        return self.refusal

    @property
    def reachable(self) -> bool:
        return self.is_reachable

    @property
    def stalled(self) -> bool:
        return self.is_stalled

    @property
    def idle(self) -> bool:
        return not self.items


class Bench:
    def __init__(self, members: int = 4) -> None:
        self.links: dict[str, FakeLink] = {f"s{i}": FakeLink(f"s{i}") for i in range(members)}
        self.placement = Placement([_member(id_) for id_ in self.links])
        self.counters = Counters()
        self.health = LinkHealth(self.counters)
        self.health.use(list(self.links.values()))
        self.admission = Admission(AdaptiveLimit())
        self.forwarder = Forwarder(RetryPolicy(), self.admission, self.health, self.counters, default_timeout_s=3.0)
        self.use(self.links)

    def use(self, links: Mapping[str, FakeLink]) -> None:
        self.forwarder.use(RouteTable(self.placement, links, "nobody is there"))

    def idle(self) -> bool:
        """Whether nothing is counted as being under way."""
        loads = [link.load.in_flight for link in self.links.values()]
        return not any(loads) and not self.health.bounded.in_flight and not self.admission.in_flight

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
    bench.use(left)
    bench.forwarder.on_result(bench.submitted()[0], None, _DOWN)
    assert [len(link.items) for link in bench.ranked()[:3]] == [1, 0, 1]


async def test_nobody_is_alive() -> None:
    bench = Bench(0)
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    assert call.failure == Failure(14, "nobody is there", "NO_SCORER")


async def test_before_the_first_view_the_text_says_so() -> None:
    call = FakeCall(_REQUEST)
    counters = Counters()
    admission, health = Admission(AdaptiveLimit()), LinkHealth(counters)
    Forwarder(RetryPolicy(), admission, health, counters, default_timeout_s=1.0).score(call)
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


async def test_every_end_gives_back_what_was_taken(bench: Bench) -> None:
    calls = [FakeCall(_REQUEST) for _ in range(4)]
    for call in calls:
        bench.forwarder.score(call)
    answered, refused, cancelled, retried = bench.ranked()[0].items
    assert (bench.admission.in_flight, bench.ranked()[0].load.in_flight) == (4, 4)
    bench.forwarder.on_result(answered, b"answer", None)
    bench.forwarder.on_result(refused, None, Failure(3, "bad", "INVALID_FEATURES"))
    cancelled.cancel()
    bench.forwarder.on_result(retried, None, _DOWN)
    assert [link.load.in_flight for link in bench.ranked()] == [0, 1, 0, 0]
    assert bench.admission.in_flight == 1
    bench.forwarder.on_result(retried, b"answer", None)
    assert bench.idle()


async def test_what_never_reached_a_scorer_is_sent_elsewhere_at_no_cost(bench: Bench) -> None:
    """However often it happens."""
    bench.health.use([])  # nobody is left out
    calls = [FakeCall(_REQUEST) for _ in range(100)]
    for call in calls:
        bench.forwarder.score(call)
        (item,) = bench.ranked()[0].items
        bench.ranked()[0].items.clear()
        bench.forwarder.on_result(item, None, _DOWN, False)
    assert len(bench.submitted()) == 100
    assert bench.counters.retries == 0
    assert all(call.failure is None for call in calls)


async def test_retries_have_a_budget(bench: Bench) -> None:
    """Members that fail must not get three times the requests."""
    for _ in range(200):
        bench.forwarder.score(FakeCall(_REQUEST))
    for link in bench.ranked():
        while link.items:
            bench.forwarder.on_result(link.items.pop(), None, _DOWN)
    assert 10 <= bench.counters.retries <= 60
    assert bench.counters.budget_empty >= 140
    assert bench.idle()


async def test_a_full_link_is_passed_over_for_another_replica_only(bench: Bench) -> None:
    first, second, *others = bench.ranked()
    first.refusal = Failure(8, "full", "LINK_FULL", 100)
    call = FakeCall(_REQUEST)
    bench.forwarder.score(call)
    assert len(second.items) == 1
    second.refusal = first.refusal
    bench.forwarder.score(call := FakeCall(_REQUEST))
    assert call.failure == first.refusal
    assert [link.items for link in others] == [[], []], "the model isn't scattered over the shard"
    bench.forwarder.on_result(second.items[0], b"", None)
    assert bench.idle()


async def test_links_that_are_down_are_passed_over_for_anybody(bench: Bench) -> None:
    for link in bench.ranked()[:3]:
        link.refusal, link.is_reachable = _DOWN, False
    bench.forwarder.score(call := FakeCall(_REQUEST))
    assert len(bench.ranked()[3].items) == 1
    assert call.failure is None


async def test_items_of_a_stalled_link_go_elsewhere_and_the_link_is_left_out(bench: Bench) -> None:
    first, second, *_ = bench.ranked()
    calls = [FakeCall(_REQUEST) for _ in range(3)]
    for call in calls:
        bench.forwarder.score(call)
    bench.forwarder.on_stall(first, True)
    assert (len(first.items), len(second.items)) == (0, 3)
    assert (bench.counters.moved, bench.counters.ejections) == (3, 1)
    bench.forwarder.score(FakeCall(_REQUEST))
    assert (len(first.items), len(second.items)) == (0, 4)
    for item in second.items:
        bench.forwarder.on_result(item, b"", None)
    assert bench.idle()
    assert all(call.sent == [b""] for call in calls)


async def test_a_stalled_link_is_passed_over_where_too_many_are_left_out_for_it_to_be(bench: Bench) -> None:
    first, second, *others = bench.ranked()
    for link in others:
        bench.health.stalled(link)
    first.is_stalled = True
    bench.forwarder.on_stall(first, True)
    assert first.load.weight > 0.0
    bench.forwarder.score(FakeCall(_REQUEST))
    assert [len(link.items) for link in (first, second, *others)] == [0, 1, 0, 0]
    second.is_stalled = True
    bench.forwarder.score(FakeCall(_REQUEST))
    assert [len(link.items) for link in (first, second, *others)] == [0, 1, 1, 0], "rather one that is left out"
    for link in others:
        link.is_stalled = True
    bench.forwarder.score(call := FakeCall(_REQUEST))
    assert len(bench.submitted()) == 3, "one of them may speak again"
    assert call.failure is None


async def test_what_the_budget_does_not_move_at_once_moves_when_there_is_more_of_it(bench: Bench) -> None:
    first, second, *_ = bench.ranked()
    for _ in range(30):
        bench.forwarder.score(FakeCall(_REQUEST))
    first.is_stalled = True
    bench.forwarder.on_stall(first, True)
    assert len(first.items) == 30 - 16, "10, and a fifth of 30"
    assert bench.counters.stalls == 1
    for _ in range(100):
        bench.forwarder.score(FakeCall(_REQUEST))
    async with asyncio.timeout(10):
        while first.items:
            await asyncio.sleep(0.01)
    assert len(second.items) == 130
    assert (bench.counters.stalls, bench.counters.moved) == (1, 30)


async def test_quotas(bench: Bench) -> None:
    now = asyncio.get_running_loop().time()
    bench.admission.set_tenant(TenantRecord(tenant="acme", concurrency=2), now)
    calls = [FakeCall(_REQUEST) for _ in range(3)]
    for call in calls:
        bench.forwarder.score(call)
    assert calls[2].failure is not None
    assert (calls[2].failure.code, calls[2].failure.reason) == (8, "CONCURRENCY_EXCEEDED")
    assert calls[2].failure.retry_after_ms > 0
    bench.forwarder.on_result(bench.submitted()[0], b"", None)
    bench.admission.set_tenant(TenantRecord(tenant="acme", requests_per_s=1.0), now)
    batch = FakeCall(_batch(_REQUEST, _REQUEST, _REQUEST))
    bench.forwarder.score_batch(batch)
    assert len(bench.submitted()) == 3, "each item of a batch is one"
    bench.admission.set_tenant(TenantRecord(tenant="acme"), now)
    bench.forwarder.score(free := FakeCall(_REQUEST))
    assert free.failure is None
    assert (bench.counters.refused_concurrency, bench.counters.refused_rate) == (1, 2)


class Hedged(Bench):
    """A tenant that hedges, whose model the second replica has answered for, and one request on its first replica."""

    async def begin(self) -> None:
        self.forwarder.set_hedging("acme", True)
        self.first, self.second, *_ = self.ranked()
        self.first.load.weight = 0.0
        self.forwarder.score(FakeCall(_REQUEST))
        self.forwarder.on_result(self.second.items.pop(), b"", None)
        self.first.load.weight = 1.0
        for link in self.links.values():
            for _ in range(100):
                link.p95.observe(0.001)
        self.call = FakeCall(_REQUEST)
        self.forwarder.score(self.call)
        (self.item,) = self.first.items

    async def wait_hedge(self) -> Item:
        async with asyncio.timeout(20):
            while not self.second.items:
                await asyncio.sleep(0.001)
        return self.second.items[0]


async def test_a_hedge_that_is_faster_answers_and_the_first_attempt_is_cancelled() -> None:
    bench = Hedged()
    await bench.begin()
    hedge = await bench.wait_hedge()
    withdrawn: list[Item] = []
    bench.item.withdraw = lambda: withdrawn.append(bench.item)
    bench.forwarder.on_result(hedge, b"hedge", None)
    assert bench.call.sent == [b"hedge"]
    assert withdrawn == [bench.item]
    bench.forwarder.on_result(bench.item, b"late", None)
    assert bench.call.sent == [b"hedge"]
    assert bench.idle()
    assert (bench.counters.hedges, bench.counters.hedges_won) == (1, 1)


async def test_a_hedge_that_is_slower_or_fails_is_not_heard_of() -> None:
    for outcome in (None, _DOWN, Failure(8, "full", "OVERLOADED")):
        bench = Hedged()
        await bench.begin()
        hedge = await bench.wait_hedge()
        if outcome is not None:
            bench.forwarder.on_result(hedge, None, outcome)
            assert (bench.call.sent, bench.call.failure) == ([], None)
        bench.forwarder.on_result(bench.item, b"first", None)
        assert bench.call.sent == [b"first"]
        assert hedge.done
        assert bench.idle()


async def test_a_first_attempt_that_fails_waits_for_its_hedge() -> None:
    for outcome in (b"hedge", None):
        bench = Hedged()
        await bench.begin()
        hedge = await bench.wait_hedge()
        bench.forwarder.on_result(bench.item, None, _DOWN)
        assert (bench.call.sent, bench.call.failure) == ([], None)
        bench.forwarder.on_result(hedge, outcome, None if outcome else _DOWN)
        assert (bench.call.sent, bench.call.failure) == (([b"hedge"], None) if outcome else ([], _DOWN))
        assert bench.idle()


async def test_a_caller_that_goes_cancels_both() -> None:
    bench = Hedged()
    await bench.begin()
    hedge = await bench.wait_hedge()
    assert bench.call.on_cancel is not None
    bench.call.on_cancel()
    assert bench.item.done
    assert hedge.done
    assert bench.idle()


async def test_nobody_is_hedged_who_does_not_ask_or_to_a_member_that_may_be_cold() -> None:
    bench = Hedged()
    await bench.begin()
    bench.forwarder.set_hedging("acme", False)
    bench.forwarder.score(FakeCall(_REQUEST))
    other = ScoreRequest(tenant="other", model="m", row_count=1, dense_double=[1.0]).SerializeToString()
    bench.forwarder.set_hedging("other", True)
    bench.forwarder.score(FakeCall(other))
    await bench.wait_hedge()
    await asyncio.sleep(0.02)
    assert bench.counters.hedges == 1
