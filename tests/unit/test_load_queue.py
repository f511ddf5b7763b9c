"""Which load begins next, case by case."""

from __future__ import annotations

import pytest

from registry.errors import LoadQueueFullError
from scorer.load_queue import LoadQueue


def drain(queue: LoadQueue, begun: list[str]) -> list[str]:
    """The order in which all loads begin when each ends as it was thought to, the first one first."""
    order = list(begun)
    for package in order:
        order += queue.finish(package, float(1000))
    return order


def flood(queue: LoadQueue, tenant: str, count: int, cost_us: float = 1000.0) -> list[str]:
    return [begun for i in range(count) for begun in queue.push(f"{tenant}{i}", tenant, cost_us)]


def test_a_single_load_begins_at_once() -> None:
    queue = LoadQueue(4)
    assert queue.push("p", "acme", 10.0) == ["p"]
    assert queue.has_begun("p")
    assert "p" not in queue
    assert queue.finish("p", 10.0) == []
    assert not queue.has_begun("p")


def test_the_last_place_is_another_tenants() -> None:
    queue = LoadQueue(4)
    assert flood(queue, "a", 10) == ["a0", "a1", "a2"]
    assert queue.push("b", "b", 1000.0) == ["b"]
    assert queue.push("c", "c", 1000.0) == []
    assert queue.finish("a0", 1000.0) == ["c"], "it has had nothing yet"


def test_one_place_goes_round() -> None:
    queue = LoadQueue(1)
    begun = [*flood(queue, "a", 3), *flood(queue, "b", 3), *flood(queue, "c", 1)]
    assert drain(queue, begun) == ["a0", "b0", "c0", "a1", "b1", "a2", "b2"]


def test_what_counts_is_what_loads_cost() -> None:
    queue = LoadQueue(1)
    begun = [*flood(queue, "large", 2, 4000.0), *flood(queue, "small", 6, 1000.0)]
    order = list(begun)
    for package in order:
        order += queue.finish(package, 4000.0 if package.startswith("large") else 1000.0)
    assert order == ["large0", "small0", "small1", "small2", "small3", "large1", "small4", "small5"]


def test_what_a_load_really_took_counts() -> None:
    """Both are thought to cost the same; the loads of one take four times as long."""
    queue = LoadQueue(1)
    order = [*flood(queue, "a", 3), *flood(queue, "b", 8)]
    for package in order:
        order += queue.finish(package, 4000.0 if package.startswith("a") else 1000.0)
    assert order == ["a0", "b0", "b1", "b2", "b3", "a1", "b4", "b5", "b6", "b7", "a2"]


def test_a_premium_tenant_gets_four_times_as_much() -> None:
    queue = LoadQueue(1)
    queue.set_weight("rich", 4.0)
    order = drain(queue, [*flood(queue, "poor", 4), *flood(queue, "rich", 12)])
    assert sum(package.startswith("rich") for package in order[:10]) == 8
    queue.set_weight("rich", 1.0)
    order = drain(queue, [*flood(queue, "poor", 8), *flood(queue, "rich", 8)])
    assert sum(package.startswith("rich") for package in order[:8]) == 4


def test_a_tenant_that_comes_later_is_not_owed_what_it_did_not_ask_for() -> None:
    queue = LoadQueue(1)
    (running,) = flood(queue, "a", 10)
    for _ in range(5):
        (running,) = queue.finish(running, 1000.0)
    flood(queue, "b", 5)
    assert drain(queue, [running])[:7] == ["a5", "b0", "a6", "b1", "a7", "b2", "a8"]


def test_requests_come_before_what_nobody_waits_for() -> None:
    queue = LoadQueue(4)
    background = [begun for i in range(5) for begun in queue.push(f"w{i}", f"t{i}", 1000.0, background=True)]
    assert background == ["w0", "w1"], "half of the places"
    assert queue.push("r0", "t0", 1000.0) == ["r0"]
    assert queue.push("r1", "t1", 1000.0) == ["r1"]
    assert queue.push("r2", "t2", 1000.0) == []
    assert queue.finish("w0", 1000.0) == ["r2"]
    assert queue.finish("w1", 1000.0) == ["w2"]


def test_a_request_that_joins_takes_a_load_out_of_the_background() -> None:
    queue = LoadQueue(1)
    assert queue.push("a", "a", 1000.0) == ["a"]
    for package in ("w0", "w1"):
        assert queue.push(package, package, 1000.0, background=True) == []
    assert queue.push("r", "r", 1000.0) == []
    assert queue.upgrade("w1") == []
    assert queue.upgrade("r") == queue.upgrade("a") == queue.upgrade("unknown") == []
    assert drain(queue, ["a"]) == ["a", "r", "w1", "w0"]


def test_an_upgrade_may_begin_at_once() -> None:
    queue = LoadQueue(4)
    for number in range(3):
        queue.push(f"w{number}", f"t{number}", 1000.0, background=True)
    assert "w2" in queue
    assert queue.upgrade("w2") == ["w2"]


def test_what_was_taken_out_does_not_begin() -> None:
    queue = LoadQueue(1)
    order = [*flood(queue, "a", 3), *flood(queue, "b", 1)]
    assert queue.finish("b0") == []
    assert queue.finish("a1") == []
    assert "a1" not in queue
    assert drain(queue, order) == ["a0", "a2"]


def test_a_load_that_can_not_go_on_halts_its_tenant_alone() -> None:
    queue = LoadQueue(2)
    assert flood(queue, "a", 3) == ["a0"]
    assert queue.push("b0", "b", 1000.0) == ["b0"]
    assert queue.push("c0", "c", 1000.0) == []
    assert queue.park("a0") == ["c0"], "a's others would fare no better"
    assert queue.is_parked("a0")
    assert queue.finish("b0", 1000.0) == []
    assert queue.unpark("a0") == ["a0"]
    assert queue.finish("a0", 1000.0) == ["a1"]


def test_a_parked_load_that_is_given_up_lets_its_tenant_go_on() -> None:
    queue = LoadQueue(1)
    assert flood(queue, "a", 2) == ["a0"]
    assert queue.park("a0") == []
    assert queue.finish("a0") == ["a1"]
    assert not queue.is_parked("a0")


def test_a_slowed_tenant_holds_one_place() -> None:
    queue = LoadQueue(4)
    queue.slow("a", True)
    assert flood(queue, "a", 4) == ["a0"]
    assert queue.finish("a0", 1.0) == ["a1"]
    queue.slow("a", False)
    assert queue.push("b", "b", 1.0) == ["b", "a2", "a3"]


def test_too_many_of_one_tenant_are_refused_and_nobody_elses() -> None:
    queue = LoadQueue(1, length_per_tenant=2)
    flood(queue, "a", 3)
    with pytest.raises(LoadQueueFullError, match="2 loads of tenant a wait already") as caught:
        queue.push("a3", "a", 1000.0)
    assert caught.value.retry_after_ms == 2
    assert "a3" not in queue
    assert queue.push("b", "b", 1.0) == []
    assert queue.push("w", "a", 1.0, background=True) == []


def test_too_many_of_all_are_refused_but_for_a_tenant_that_has_none() -> None:
    queue = LoadQueue(1, length=3)
    flood(queue, "a", 3)
    queue.push("b0", "b", 1.0)
    for tenant in "ab":
        with pytest.raises(LoadQueueFullError, match="3 of all"):
            queue.push(f"{tenant}9", tenant, 1.0)
    assert queue.push("c0", "c", 1.0) == []
    queue.finish("a0")
    queue.finish("a1")
    assert queue.push("a3", "a", 1.0) == []


def test_a_request_that_joins_what_has_begun_gives_the_background_its_place_back() -> None:
    queue = LoadQueue(4)
    for number in range(3):
        queue.push(f"w{number}", f"t{number}", 1000.0, background=True)
    assert queue.upgrade("w0") == ["w2"]


def test_a_parked_load_that_a_request_has_joined_is_no_longer_in_the_background() -> None:
    queue = LoadQueue(1)
    queue.push("w", "a", 1000.0, background=True)
    assert queue.park("w") == []
    queue.upgrade("w")
    assert queue.push("b", "b", 1000.0) == ["b"]
    assert queue.push("x", "x", 1000.0, background=True) == []
    assert queue.unpark("w") == []
    assert drain(queue, ["b"]) == ["b", "w", "x"]


def test_the_wait_is_that_of_the_tenants_share() -> None:
    queue = LoadQueue(1)
    flood(queue, "a", 5)
    flood(queue, "b", 2)
    assert queue.wait_us("a0") == 0.0
    assert queue.wait_us("a1") == 0.0, "rather too little"
    assert queue.wait_us("a3") == 4000.0, "two before it, each after one of the other tenant"
    assert queue.wait_us("a4") == 5000.0, "no more than there is"
    queue.push("w", "w", 1.0, background=True)
    assert queue.wait_us("w") == 6000.0


def test_nothing_is_kept_of_tenants_that_have_nothing_to_load() -> None:
    queue = LoadQueue(2)
    for number in range(5000):
        begun = queue.push(f"p{number}", f"t{number}", 10.0)
        queue.push(f"q{number}", f"t{number}", 10.0)
        for package in (*begun, f"q{number}"):
            if queue.has_begun(package):
                queue.finish(package, 10.0)
    while queue._begun:
        queue.finish(next(iter(queue._begun)), 10.0)
    assert not queue._requests._flows
    assert not queue._held
    assert not queue._queued
