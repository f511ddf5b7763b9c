"""Which models leave memory first, in cases that one can follow by hand."""

from __future__ import annotations

from math import inf

import pytest

from scorer.eviction import demand, segments
from scorer.residents import JUST_LOADED_S, Residents


class Memory:
    """Room for so many bytes. Each load comes `step_s` after the one before it."""

    def __init__(self, capacity_bytes: int = 1000, step_s: float = 1.0) -> None:
        self.residents: Residents[str] = Residents(capacity_bytes)
        self.now = 0.0
        self._step_s = step_s

    def load(
        self, key: str, nbytes: int = 100, *, cost_us: float = 1000.0, background: bool = False
    ) -> list[str] | None:
        """For a request, if it isn't one in the background; the tenant is the key's first letter. Returns what left."""
        residents = self.residents
        self.now += self._step_s
        if not background:
            residents.missed(key)
        left = residents.reserve(key, nbytes, tenant=key[0], now=self.now, background=background)
        if left is not None:
            residents.fill(key, key, nbytes, cost_us=cost_us, now=self.now)
        return left

    def ask(self, *keys: str, times: int = 1) -> None:
        """Load what isn't there."""
        for key in keys * times:
            if self.residents.get(key) is None:
                self.load(key)

    def held(self, *keys: str) -> list[str]:
        return [key for key in keys if key in self.residents]


HOT = [f"h{number}" for number in range(8)]


@pytest.mark.parametrize(("count", "step_s"), [(20, 1.0), (5000, 0.01), (5000, 0.0)])
def test_a_scan_over_cold_models_does_not_push_out_the_hot_ones(
    count: int, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scorer.residents.JUST_LOADED_S", 0.0)
    memory = Memory(step_s=step_s)
    memory.ask(*HOT, times=20)
    memory.ask(*(f"c{number}" for number in range(count)))
    assert memory.held(*HOT) == HOT


def test_in_a_large_memory_neither_however_small_the_sample() -> None:
    memory = Memory(100_000, step_s=0.01)
    hot = [f"h{number}" for number in range(880)]
    memory.ask(*hot, times=3)
    memory.ask(*(f"c{number}" for number in range(3000)))
    assert memory.held(*hot) == hot


def test_of_equal_demand_what_is_loaded_quickly_goes_first() -> None:
    memory = Memory()
    for number in range(10):
        memory.load(f"a{number}", cost_us=100.0 if number == 6 else 5000.0)
    assert memory.load("b") == ["a6"]


def test_of_equal_demand_and_cost_the_large_one_goes_first() -> None:
    memory = Memory()
    for number in range(6):
        memory.load(f"a{number}", 500 if number == 3 else 100)
    assert memory.load("b") == ["a3"]


def test_for_a_large_one_as_many_leave_as_it_takes_those_worth_least() -> None:
    memory = Memory()
    for number in range(10):
        memory.load(f"a{number}", cost_us=1000.0 * (10 - number))
    assert memory.load("b", 300, cost_us=1e6) == ["a8", "a7", "a6"], "the last one is in the window"
    assert memory.residents.used_bytes == 1000


def test_demand_is_remembered_of_what_has_left() -> None:
    memory = Memory(300)
    memory.ask("a", times=3)
    memory.ask("b", "c", times=5)
    assert memory.load("d", 100) == ["a"]
    assert memory.load("a", 100) == ["d"]
    assert dict(memory.residents.hottest())["a"] > 2.0


def test_what_was_hot_goes_in_the_end() -> None:
    memory = Memory()
    memory.ask(*HOT, times=50)
    for turn in range(400):
        memory.ask(*(f"n{number}" for number in range(turn % 2, 11)))
    assert memory.held(*HOT) == []


def test_a_request_that_waits_for_a_load_or_gives_up_counts() -> None:
    residents: Residents[str] = Residents(100)
    residents.missed("a")
    residents.reserve("a", 10, tenant="t", now=0.0)
    residents.missed("a")
    residents.remove("a")
    residents.reserve("a", 10, tenant="t", now=1.0)
    residents.fill("a", "a", 10, cost_us=1.0, now=1.0)
    assert residents.find("a") == residents.get("a") == "a"
    assert residents.hottest()[0][1] == pytest.approx(3.0, rel=0.1)


def test_nobodys_load_takes_free_room_and_what_nobody_asks_for() -> None:
    memory = Memory(300)
    assert memory.load("a", background=True) == []
    assert memory.load("b") == []
    assert memory.load("c", background=True) == []
    assert memory.load("d", background=True) == ["a"], "nobody has asked for it"
    assert memory.load("e", background=True) == ["c"]
    memory.ask("e", "d")
    assert memory.load("f", background=True) is None
    assert memory.load("f") is not None


def test_old_demand_is_none_for_a_load_in_the_background() -> None:
    memory = Memory(210)
    memory.load("a")
    for turn in range(6):
        memory.ask("b")
        left = memory.load("c", background=True)
        assert left == (None if turn < 4 else ["a"])
        if left:
            break
        memory.now += demand.HALF_LIFE_S
        for _ in range(22 * round(demand.TURNOVERS)):  # loads that fail take time and bytes, too
            if memory.residents.reserve("d", 10, tenant="d", now=memory.now) is not None:
                memory.residents.remove("d")
    assert memory.held("b") == ["b"]


def test_what_was_just_loaded_stays_and_when_it_may_leave_is_known() -> None:
    residents: Residents[str] = Residents(300)
    tenth = JUST_LOADED_S / 10
    for place, key in enumerate("abc"):
        assert residents.reserve(key, 100, tenant="t", now=place * tenth) is not None
        residents.fill(key, key, 100, cost_us=1.0, now=place * tenth)
    assert residents.reserve("d", 100, tenant="t", now=5 * tenth) is None
    assert residents.evictable_in_s(100, "t", 5 * tenth) == pytest.approx(5 * tenth)
    assert residents.evictable_in_s(200, "t", 5 * tenth) == pytest.approx(6 * tenth)
    assert residents.evictable_in_s(301, "t", 5 * tenth) == inf
    residents.pin("a")
    assert residents.evictable_in_s(100, "t", 5 * tenth) == pytest.approx(6 * tenth)
    assert residents.evictable_in_s(300, "t", 5 * tenth) == inf
    residents.set_limits("t", guaranteed_bytes=200)
    assert residents.evictable_in_s(100, "u", 5 * tenth) == pytest.approx(6 * tenth)
    assert residents.evictable_in_s(200, "u", 5 * tenth) == inf
    assert residents.evictable_in_s(200, "t", 5 * tenth) == pytest.approx(7 * tenth)
    assert residents.reserve("d", 100, tenant="u", now=11.001 * tenth) == ["b"]


def test_what_was_just_loaded_stays_although_its_tenant_has_its_maximum() -> None:
    residents: Residents[str] = Residents(1000)
    tenth = JUST_LOADED_S / 10
    residents.set_limits("t", max_bytes=200)
    for key in "ab":
        residents.reserve(key, 100, tenant="t", now=0.0)
        residents.fill(key, key, 100, cost_us=1.0, now=0.0)
    assert residents.reserve("c", 100, tenant="t", now=5 * tenth) is None
    assert residents.evictable_in_s(100, "t", 5 * tenth) == pytest.approx(5 * tenth)
    assert residents.evictable_in_s(100, "u", 5 * tenth) == 0.0
    assert residents.evictable_in_s(201, "t", 5 * tenth) == inf
    assert residents.reserve("c", 100, tenant="t", now=JUST_LOADED_S) == ["a"]


def test_under_a_guarantee_the_smaller_ones_that_are_too_much_leave() -> None:
    memory = Memory(300)
    memory.load("a1", 200)
    memory.load("a2", 50, cost_us=1e6)
    memory.load("a3", 50, cost_us=1e6)
    memory.residents.set_limits("a", guaranteed_bytes=240)
    assert memory.load("b", 60) is None
    memory.residents.set_limits("a", guaranteed_bytes=251)
    assert memory.load("b", 50) is None
    memory.residents.set_limits("a", guaranteed_bytes=250)
    assert memory.load("b", 50) in (["a2"], ["a3"])


def test_a_guarantee_holds_to_the_byte() -> None:
    memory = Memory(300)
    for number, nbytes in enumerate((200, 50, 40, 10)):
        memory.load(f"a{number}", nbytes)
    memory.residents.set_limits("a", guaranteed_bytes=251)
    assert memory.load("b", 45) is None, "only the one of 40 may leave, or that of 10"
    memory.residents.set_limits("a", guaranteed_bytes=250)
    assert memory.load("b", 45) is not None
    assert memory.residents.used_by("a") >= 250


def test_all_guaranteed_or_just_loaded_but_one_in_a_thousand_that_one_is_found() -> None:
    memory = Memory(100_000, step_s=0.0)
    memory.residents.set_limits("a", guaranteed_bytes=99_900)
    memory.ask(*(f"a{number}" for number in range(700)))
    memory.ask("b", times=100)
    memory.ask(*(f"a{number}" for number in range(700, 900)))
    memory.now += 2 * JUST_LOADED_S
    memory.ask(*(f"a{number}" for number in range(900, 999)))
    assert memory.load("c") == ["b"]


def test_a_burst_of_something_new_has_the_window_to_itself() -> None:
    memory = Memory(2000)
    memory.ask(*(f"h{number}" for number in range(20)), times=20)
    new = [f"n{number}" for number in range(int(20 * segments.WINDOW))]
    for key in new:
        memory.load(key)
    assert memory.held(*new) == new


def test_a_tenant_that_has_gone_leaves_nothing_behind() -> None:
    memory = Memory()
    memory.residents.set_limits("a", max_bytes=500)
    memory.load("a1")
    memory.load("b1")
    memory.residents.set_limits("a")
    for key in ("a1", "b1"):
        memory.residents.remove(key)
    assert len(memory.residents._shares) == 0
    assert memory.residents.used_by("a") == 0


@pytest.mark.parametrize("most", [2.0, 400.0])
def test_demand_is_the_same_however_often_all_is_scaled_down(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "_MOST_DOUBLINGS", most)
    monkeypatch.setattr(demand, "TURNOVERS", 0.1)
    memory = Memory(300, step_s=demand.HALF_LIFE_S)
    memory.ask("a", times=64)
    for _ in range(6):
        memory.load("b", 100)
        memory.residents.remove("b")
    assert dict(memory.residents.hottest())["a"] == pytest.approx(1.0)
