"""Admission: rates and caps hold, shares are kept, the limit learns from what it should and from nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.model import TenantRecord
from router.adaptive_limit import AdaptiveLimit, Experience
from router.admission import Admission, Gate, Limit, Refusal
from router.concurrency import Partition, SharedLimit
from router.token_bucket import TokenBucket

TENANTS = ("a", "b", "c", "d")
pauses = st.lists(st.floats(0, 0.5), max_size=200)


# The token bucket


@given(st.floats(0.1, 1000), st.floats(0, 100), pauses)
def test_a_rate_holds_in_every_span(rate: float, burst: float, history: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, []
    for pause_s in history:
        now += pause_s
        if bucket.take(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= max(burst, 1) + rate * (taken[last] - taken[first]) + 1e-6


@given(st.floats(0.5, 1000), pauses)
def test_who_waits_as_told_is_let_through(rate: float, history: list[float]) -> None:
    bucket, now = TokenBucket(rate, rate, 0.0), 0.0
    for pause_s in history:
        now += pause_s / 100
        bucket.take(now)
    while bucket.take(now):
        pass
    assert 0 < bucket.wait_s <= 60
    assert bucket.take(now + bucket.wait_s + 1e-9)


def test_each_who_is_refused_is_told_a_later_time() -> None:
    bucket = TokenBucket(10, 1, 0.0)
    assert bucket.take(0.0)
    waits = []
    for _ in range(3):
        assert not bucket.take(0.0)
        waits.append(round(bucket.wait_s, 6))
    assert waits == [0.1, 0.2, 0.3]


@given(st.floats(1, 100), st.floats(1, 100))
def test_a_change_of_the_rate_gives_nothing_away(before: float, after: float) -> None:
    bucket = TokenBucket(before, before, 0.0)
    while bucket.take(0.0):
        pass
    bucket.change(after, after, 0.0)
    assert not bucket.take(0.0)
    assert sum(bucket.take(1.0) for _ in range(300)) <= after + 1


# Shares


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=300),
)
def test_who_has_less_than_its_share_gets_a_place(
    limit: int, weights: list[int], history: list[tuple[int, bool]]
) -> None:
    shared, tenants = SharedLimit(limit), [Partition(weight) for weight in weights]
    for which, is_start in history:
        one = tenants[which]
        if not is_start:
            if one.in_flight:
                shared.end(one)
            continue
        active = sum(other.weight for other in tenants if other.in_flight or other is one)
        wanted = shared.in_flight < limit or (
            one.in_flight < limit * one.weight / active and shared.in_flight < 2 * limit
        )
        assert shared.has_room(one) == wanted
        if wanted:
            shared.start(one)
        assert shared.in_flight == sum(other.in_flight for other in tenants) <= 2 * limit
    for one in tenants:
        while one.in_flight:
            shared.end(one)
    assert shared.in_flight == 0
    shared.start(tenants[0])
    assert shared.has_room(tenants[0]) == (limit > 1)


# The limit


experiences = st.lists(
    st.builds(
        lambda answered, stretch, dropped: Experience(answered, answered * stretch, dropped),
        st.integers(0, 100),
        st.floats(0.5, 8),
        st.integers(0, 50),
    ),
    max_size=6,
)


@given(st.integers(32, 16384), experiences, st.integers(0, 40_000))
def test_the_limit_moves_as_said(first: int, seen: list[Experience], most: int) -> None:
    limit = AdaptiveLimit(first=first)
    after = limit.judge(seen, most)
    heard = [one for one in seen if one.answered + one.dropped >= 5]
    in_trouble = [one for one in heard if one.is_trouble(2.0)]
    assert 32 <= after == limit.value <= 16384
    if after < first:
        assert len(in_trouble) > len(heard) / 2
    if after > first:
        assert 2 * most >= first
        assert heard
        assert len(in_trouble) <= len(heard) / 2


@given(st.lists(experiences, max_size=50))
def test_idle_never_inflates_it(windows: list[list[Experience]]) -> None:
    limit = AdaptiveLimit(first=100)
    for seen in windows:
        before = limit.value
        limit.judge(seen, before // 2 - 1)
        assert limit.value <= before


def test_nothing_heard_teaches_nothing() -> None:
    limit = AdaptiveLimit(first=100)
    assert limit.judge([], 1000) == 100
    assert limit.judge([Experience(4, 400.0, 0)], 1000) == 100


def test_one_tenant_of_two_can_not_lower_it() -> None:
    well, slow, dropped = Experience(50, 50.0, 0), Experience(50, 500.0, 0), Experience(5, 5.0, 50)
    assert AdaptiveLimit(first=100).judge([well, slow], 0) == 100
    assert AdaptiveLimit(first=100).judge([well, dropped], 0) == 100
    assert AdaptiveLimit(first=100).judge([slow, dropped], 0) == 90
    assert AdaptiveLimit(first=100).judge([slow], 0) == 90


def test_it_finds_what_a_server_can_do() -> None:
    """A server of 200 places, above which latency grows with the queue, asked by far too many."""
    limit, values = AdaptiveLimit(first=2000), []
    for _ in range(400):
        stretch = max(1.0, limit.value / 200)
        limit.judge([Experience(100, 100 * stretch, 0)], limit.value)
        values.append(limit.value)
    assert all(300 <= value <= 480 for value in values[100:])


# All together


records = st.builds(
    TenantRecord,
    tenant=st.sampled_from(TENANTS),
    requests_per_s=st.sampled_from([0.0, 1.0, 40.0]),
    concurrency=st.integers(0, 6),
    premium=st.booleans(),
)
moves = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from(TENANTS)),
    st.tuples(st.just("release"), st.integers(0, 99)),
    st.tuples(st.just("tenant"), records),
    st.tuples(st.just("routers"), st.integers(0, 4)),
)


@given(st.lists(st.tuples(moves, st.floats(0, 0.2)), max_size=200))
def test_what_is_let_through_keeps_to_the_limits_of_the_moment(history: list[tuple[tuple[str, object], float]]) -> None:
    admission = Admission(AdaptiveLimit(first=32))
    now, routers = 0.0, 1
    held = {name: TenantRecord(tenant=name) for name in TENANTS}
    running: list[tuple[str, Gate]] = []
    for (what, value), pause_s in history:
        now += pause_s
        if what == "admit":
            assert isinstance(value, str)
            own = sum(name == value for name, _ in running)
            cap = -(-held[value].concurrency // routers)
            outcome = admission.admit(value, now)
            if isinstance(outcome, Refusal):
                assert outcome.retry_after_ms >= 1
                assert (outcome.limit is Limit.CONCURRENCY) == bool(cap and own >= cap)
                assert outcome.limit is not Limit.RATE or held[value].requests_per_s
            else:
                assert not cap or own < cap
                running.append((value, outcome))
        elif what == "release" and running:
            assert isinstance(value, int)
            admission.release(running.pop(value % len(running))[1])
        elif what == "tenant":
            assert isinstance(value, TenantRecord)
            held[value.tenant] = value
            admission.set_tenant(value, now)
        elif what == "routers":
            assert isinstance(value, int)
            routers = max(value, 1)
            admission.set_routers(value, now)
        assert admission.in_flight == len(running)


def admitted(admission: Admission, tenant: str, now: float, tries: int) -> int:
    return sum(isinstance(admission.admit(tenant, now), Gate) for _ in range(tries))


def test_a_quota_is_divided_by_the_routers_and_follows_the_record() -> None:
    admission = Admission(AdaptiveLimit(first=10_000), routers=2)
    admission.set_tenant(TenantRecord(tenant="a", requests_per_s=100), 0.0)
    assert admitted(admission, "a", 0.0, 500) == 50
    assert admitted(admission, "a", 1.0, 500) == 50
    admission.set_routers(1, 1.0)
    assert admitted(admission, "a", 2.0, 500) == 100
    admission.set_tenant(TenantRecord(tenant="a"), 2.0)
    assert admitted(admission, "a", 2.0, 500) == 500


def test_a_cap_is_for_what_runs_at_once_and_takes_no_tokens() -> None:
    admission = Admission(AdaptiveLimit(first=10_000), routers=2)
    admission.set_tenant(TenantRecord(tenant="a", concurrency=5, requests_per_s=8), 0.0)
    gates = [admission.admit("a", 0.0) for _ in range(10)]
    assert [isinstance(gate, Gate) for gate in gates] == [True] * 3 + [False] * 7
    assert gates[3] == Refusal(Limit.CONCURRENCY, 100)
    assert isinstance(gates[0], Gate)
    admission.release(gates[0])
    assert isinstance(admission.admit("a", 0.0), Gate)


def test_an_abuser_that_fills_all_leaves_the_others_their_share() -> None:
    admission = Admission(AdaptiveLimit(first=100))
    assert admitted(admission, "abuser", 0.0, 1000) == 100
    assert admission.admit("abuser", 0.0) == Refusal(Limit.OVERLOAD, 100)
    assert admitted(admission, "victim", 0.0, 1000) == 50


def test_windows_are_judged_by_what_gates_saw() -> None:
    admission = Admission(AdaptiveLimit(first=100))
    gates = [gate for _ in range(60) if isinstance(gate := admission.admit("a", 0.0), Gate)]
    for gate in gates:
        gate.answered += 1
        gate.stretched += 1.0
        admission.release(gate)
    admission.admit("b", 0.2)
    assert admission.limit == 100
    admission.admit("b", 0.3)
    assert admission.limit == 110, "it was needed"
    admission.admit("b", 0.6)
    assert admission.limit == 110, "nothing was heard"
    gates[0].dropped += 10
    admission.admit("a", 0.9)
    admission.admit("a", 1.2)
    assert admission.limit == 99


def test_what_takes_longer_than_a_window_is_heard_of_in_a_later_one() -> None:
    admission = Admission(AdaptiveLimit(first=100))
    gates = [gate for _ in range(60) if isinstance(gate := admission.admit("slow", 0.0), Gate)]
    admission.admit("b", 0.3)
    for gate in gates:
        gate.dropped += 1
        admission.release(gate)
    admission.admit("b", 0.6)
    assert admission.limit == 90


def test_what_was_needed_once_is_not_needed_now() -> None:
    admission = Admission(AdaptiveLimit(first=100))
    gates = [gate for _ in range(60) if isinstance(gate := admission.admit("a", 0.0), Gate)]
    for gate in gates:
        admission.release(gate)
    admission.admit("a", 0.3)
    gates[0].answered, gates[0].stretched = 50, 50.0
    admission.admit("a", 0.6)
    assert admission.limit == 100


def test_names_that_nobody_knows_cost_bounded_memory() -> None:
    admission = Admission(AdaptiveLimit(first=10_000))
    admission.set_tenant(TenantRecord(tenant="known", requests_per_s=1), 0.0)
    held = admission.admit("known", 0.0)
    busy = admission.admit("busy", 0.0)
    for number in range(60_000):
        gate = admission.admit(f"t{number}", 0.0)
        assert isinstance(gate, Gate)
        admission.release(gate)
    assert len(admission._gates) <= 50_000
    assert admission.admit("busy", 0.0) is busy
    assert admission.admit("known", 0.0) == Refusal(Limit.RATE, 1000)
    assert isinstance(held, Gate)
