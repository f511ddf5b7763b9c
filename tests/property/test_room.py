"""Room in a bounded queue: nobody fills it all, and who has nothing finds some."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scorer.room import Room

_CAPACITY = 1000
_steps = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 300), st.booleans()), max_size=60)


@given(_steps)
def test_what_is_taken_and_given_back(steps: list[tuple[str, int, bool]]) -> None:
    room = Room(_CAPACITY)
    taken: list[tuple[str, int]] = []
    for tenant, size, gives in steps:
        held = Counter[str]()
        for owner, each in taken:
            held[owner] += each
        assert room.free == _CAPACITY - sum(held.values())
        if gives and taken:
            room.give(*taken.pop(0))
        elif room.take(tenant, size):
            taken.append((tenant, size))
            assert not held[tenant] or held[tenant] + size <= _CAPACITY - sum(held.values())
        else:
            assert held[tenant] or sum(held.values()) >= _CAPACITY, (
                "a tenant with nothing finds room while there is any"
            )
        assert room.free > -300
    for owner, each in taken:
        room.give(owner, each)
    assert room.free == _CAPACITY
    assert not room._held


@given(st.integers(1, 8))
def test_greedy_tenants_hold_equal_shares_and_one_stays_free(count: int) -> None:
    room, held = Room(_CAPACITY), Counter[int]()
    took = True
    while took:
        took = False
        for tenant in range(count):
            if room.take(str(tenant), 1):
                held[tenant], took = held[tenant] + 1, True
    share = _CAPACITY // (count + 1)
    assert all(abs(held[tenant] - share) <= count + 1 for tenant in range(count))
    assert room.free >= share - count
