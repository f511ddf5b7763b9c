"""Takes calls in, sends each item to the scorer that owns its model, and gives the answers back.

Contract: `score`, `score_batch` and `stream_score_batch` are handlers of `registry.front`: they return at once. Nothing
here awaits, touches etcd or parses more of a request than its tenant and model. Every call is answered exactly once, or
its caller has gone. An item is admitted before it's placed, each item of a batch by itself, and is tried on members
that differ; all its attempts share its deadline.

What is asked again: an item that surely never reached its scorer goes elsewhere at no cost; one whose scorer became
UNAVAILABLE, or says nothing, goes elsewhere while the budget of retries lasts; nothing else does.
"""

from __future__ import annotations

import asyncio
from math import inf

from registry.errors import DeadlineError, InvalidRequestError, NoScorerError
from registry.failure import Code, Failure
from registry.front import Call
from registry.placement import Placement
from registry.status import failure_of
from router.admission import Admission, Gate, Limit, Refusal
from router.counters import Counters
from router.hedger import Hedger
from router.item import Hedge, Item, Sink
from router.link import Link
from router.link_health import LinkHealth
from router.requests import parse_batch, parse_head
from router.retry import RetryPolicy
from router.retry_budget import RetryBudget
from router.route_table import RouteTable
from router.sinks import ItemSink, Results, StreamedResults
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch

_REFUSED = {
    Limit.RATE: ("the tenant's requests a second are over its quota", "RATE_EXCEEDED"),
    Limit.CONCURRENCY: ("the tenant has as many requests running as its quota allows", "CONCURRENCY_EXCEEDED"),
    Limit.OVERLOAD: ("the router has as many requests running as the scorers answer in time", "ROUTER_OVERLOADED"),
}
_RETRY_SHARE = 0.2
_DROPPED = ("DEADLINE_EXCEEDED", "OVERLOADED", "LINK_FULL")
_CLEAR_AGAIN_S = 0.1
_LATE_S = 0.06  # fronts look for calls that are too late every 50 ms


class Forwarder:
    """See the module. `default_timeout_s`: the deadline of a call that came without one."""

    def __init__(
        self,
        policy: RetryPolicy,
        admission: Admission,
        health: LinkHealth,
        counters: Counters,
        *,
        default_timeout_s: float,
    ) -> None:
        self._policy = policy
        self._admission = admission
        self._health = health
        self._bounded = health.bounded
        self._counters = counters
        self._default_timeout_s = default_timeout_s
        self._loop = asyncio.get_running_loop()
        self._retries = RetryBudget(_RETRY_SHARE, self._loop.time())
        why_none = "the router has not yet learned from etcd which scorers are alive"
        self._table = RouteTable(Placement(()), {}, why_none)
        self._hedger = Hedger(self._bounded, self._hedge)
        self._hedging = self._hedger.tenants
        self._on_cancel = self._cancelled

    def use(self, table: RouteTable) -> None:
        """Route by this from now on."""
        self._table = table

    def set_hedging(self, tenant: str, wanted: bool) -> None:
        """Whether a tenant's slow requests are hedged from now on."""
        (self._hedging.add if wanted else self._hedging.discard)(tenant)

    # --- calls ---

    def score(self, call: Call) -> None:
        """ScoringService.Score."""
        now = self._loop.time()
        deadline = call.deadline
        item = self._admit(call.payload, deadline if deadline != inf else now + self._default_timeout_s, call, now)
        if item is not None:
            call.on_cancel = item.cancel
            self._send(item, now)

    def score_batch(self, call: Call) -> None:
        """ScoringService.ScoreBatch."""
        batch = parse_batch(call.payload)
        self._send_all(call, batch, Results(call, len(batch.items)))

    def stream_score_batch(self, call: Call) -> None:
        """ScoringService.StreamScoreBatch."""
        batch = parse_batch(call.payload)
        self._send_all(call, batch, StreamedResults(call, len(batch.items)))

    def _send_all(self, call: Call, batch: RawBatch, results: Results | StreamedResults) -> None:
        now = self._loop.time()
        deadline = call.deadline if call.deadline != inf else now + self._default_timeout_s
        items: list[Item] = []
        for index, payload in enumerate(batch.items):
            left_ms = batch.timeout_ms[index] if batch.timeout_ms else 0
            item_deadline = min(deadline, now + left_ms / 1000) if left_ms else deadline
            item = self._admit(payload, item_deadline, ItemSink(results, index), now)
            if item is not None:
                items.append(item)

        def cancel_all() -> None:
            for item in items:
                item.cancel()

        call.on_cancel = cancel_all
        for item in items:
            self._send(item, now)

    # --- in ---

    def _admit(self, payload: bytes, deadline: float, sink: Sink, now: float) -> Item | None:
        """The item, admitted and with its way; None when it was refused."""
        try:
            tenant, model = parse_head(payload)
        except InvalidRequestError as error:
            sink.fail(failure_of(error))
            return None
        if deadline <= now:
            sink.fail(failure_of(DeadlineError("the deadline had passed when the router read the request")))
            return None
        gate = self._admission.admit(tenant, now)
        if not isinstance(gate, Gate):
            sink.fail(self._refusal(gate))
            return None
        way = self._table.find(tenant, model)
        if way is None:
            self._admission.release(gate)
            self._counters.unreachable += 1
            sink.fail(failure_of(NoScorerError(self._table.why_none)))
            return None
        self._retries.requests += 1
        return Item(payload, deadline, sink, way, gate, self._on_cancel)

    def _refusal(self, refusal: Refusal) -> Failure:
        self._counters.refuse(refusal.limit)
        text, reason = _REFUSED[refusal.limit]
        return Failure(Code.RESOURCE_EXHAUSTED, text, reason, refusal.retry_after_ms)

    def _send(self, item: Item, now: float) -> None:
        """The first attempt."""
        way = item.way
        place = self._bounded.choose(way.route, now)
        link = way.links[place]
        # Too many may be left out already for this one to be, too.
        if link.stalled and self._send_elsewhere(item, now, link):
            return
        refusal = link.submit(item)
        if refusal is None:
            item.place = place
            item.sent_at = now
            self._bounded.start(way.route, place)
            if self._hedging and way.tenant in self._hedging:
                self._hedger.plan(item, link)
        elif not self._send_elsewhere(item, now, link, within=way.route.owners):
            self._give_up(item, refusal)

    def _send_elsewhere(self, item: Item, now: float, link: Link, within: int = 1 << 30) -> bool:
        """Send it to the best member that doesn't have it and had it never. `within`: only so many of the candidates,
        or those behind them where none is left that may be reached.
        """
        tried = item.tried = (*item.tried, link.member_id)
        way = self._table.find(item.way.tenant, item.way.model)
        if way is None:
            return False
        rest = [place for place, other in enumerate(way.links) if other.member_id not in tried]
        # Stalled ones last, before them ejected ones; else by rank.
        rest.sort(key=lambda place: (way.links[place].stalled, way.links[place].load.weight <= 0.0))
        for place in rest:
            other = way.links[place]
            if (place < within or not link.reachable) and other.submit(item) is None:
                item.way, item.place, item.sent_at = way, place, now
                self._bounded.start(way.route, place)
                return True
        return False

    # --- out ---

    def on_result(self, item: Item, response: bytes | None, failure: Failure | None, sent: bool = True) -> None:
        """A link is done with an item."""
        if item.done:
            return
        if failure is None:
            item.done = True
            if self._hedging and item.way.tenant in self._hedging:
                self._hedger.learn(item)
            if item.twin is not None:
                self._win(item, item.twin)
            self._release(item)
            item.sink.respond(response or b"")
        else:
            self._failed(item, failure, sent)

    def _failed(self, item: Item, failure: Failure, sent: bool) -> None:
        link = self._leave(item)
        if item.is_hedge:
            self._lose_hedge(item, failure)
            return
        if failure.code == Code.UNAVAILABLE and link is not None:
            if failure.reason == "SCORER_UNREACHABLE":
                self._health.failed(link)
            if item.twin is not None:  # which is still out
                return
            if self._repeat(item, sent, link):
                return
        self._give_up(item, failure)

    def _repeat(self, item: Item, sent: bool, link: Link) -> bool:
        """Send it elsewhere after it failed on `link`, if it may be."""
        now = self._loop.time()
        if not sent:
            return self._policy.left_s(now, item.deadline) > 0 and self._send_elsewhere(item, now, link)
        attempts, candidates = len(item.tried) + 1, len(item.way.links)
        if not self._policy.may_retry(Code.UNAVAILABLE, attempts, candidates, now, item.deadline):
            return False
        if not self._retries.grant(now):
            self._counters.budget_empty += 1
            return False
        self._counters.retries += 1
        return self._send_elsewhere(item, now, link)

    # --- hedges ---

    def _hedge(self, item: Item, place: int) -> None:
        way = item.way
        hedge = Hedge(item.payload, item.deadline, item.sink, way, item.gate, self._on_cancel)
        if way.links[place].submit(hedge) is None:
            hedge.place, hedge.sent_at = place, self._loop.time()
            hedge.twin, item.twin = item, hedge
            self._bounded.start(way.route, place)
            self._counters.hedges += 1

    def _win(self, item: Item, twin: Item) -> None:
        """The other attempt isn't needed any more."""
        self._counters.hedges_won += item.is_hedge
        item.twin = twin.twin = None
        twin.cancel()

    def _lose_hedge(self, hedge: Item, failure: Failure) -> None:
        first, hedge.twin = hedge.twin, None
        hedge.done = True
        if first is not None:
            first.twin = None
            if first.place < 0 and not first.done:  # it failed before, and this one was its last hope
                self._give_up(first, failure)

    # --- links ---

    def on_answers(self, link: Link, item: Item, count: int) -> None:
        """A message brought `count` answers; `item` is one of them, and stands for all."""
        self._counters.answers += count
        if item.cold:
            return
        now = self._loop.time()
        seconds = now - item.sent_at
        link.load.observe(seconds)
        stretch = item.way.route.stretch(seconds, now)
        self._health.answered(link, stretch * count, count)
        item.gate.answered += count
        item.gate.stretched += stretch * count

    def on_stall(self, link: Link, stalled: bool) -> None:
        """A link's scorer says nothing: its items go elsewhere, as far as the budget of retries lasts; the others wait
        until the traffic has made it larger. Or it speaks again.
        """
        if stalled:
            self._health.stalled(link)
            self._clear(link)

    def _clear(self, link: Link) -> None:
        link.take_back(self._move)
        if link.stalled and not link.idle:
            self._loop.call_later(_CLEAR_AGAIN_S, self._clear, link)

    def _move(self, item: Item) -> bool:
        way, place = item.way, item.place
        if item.twin is not None or not self._repeat(item, True, way.links[place]):
            return False
        self._bounded.end(way.route, place)
        self._counters.moved += 1
        return True

    def _give_up(self, item: Item, failure: Failure) -> None:
        if failure.code == Code.UNAVAILABLE:
            self._counters.unreachable += 1
        elif failure.reason in _DROPPED and not item.cold:
            item.gate.dropped += 1
            self._counters.refused_full += failure.reason == "LINK_FULL"
        item.done = True
        if item.twin is not None:
            self._win(item, item.twin)
        self._release(item)
        item.sink.fail(failure)

    def _leave(self, item: Item) -> Link | None:
        """It's on no link any more; returns where it was."""
        place = item.place
        if place < 0:
            return None
        item.place = -1
        self._bounded.end(item.way.route, place)
        return item.way.links[place]

    def _release(self, item: Item) -> None:
        """An item is over."""
        if item.place >= 0:
            self._bounded.end(item.way.route, item.place)
            item.place = -1
        if not item.is_hedge:
            self._admission.release(item.gate)

    def _cancelled(self, item: Item) -> None:
        """The caller has gone, maybe because it has waited for too long."""
        if not item.cold and self._loop.time() >= item.deadline - _LATE_S:
            item.gate.dropped += 1
        self._release(item)
        if item.twin is not None:
            self._win(item, item.twin)
