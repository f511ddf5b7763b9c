"""The cache by bytes against a naive model of it, through random histories."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scorer.lru import LruBytes

CAPACITY = 100


class LruHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lru: LruBytes[str, object] = LruBytes(CAPACITY)
        self.order: list[str] = []  # least recently used first
        self.nbytes: dict[str, int] = {}
        self.values: dict[str, object] = {}
        self.pins: dict[str, int] = {}
        self.given: list[object] = []
        self.left: list[object] = []

    keys = st.sampled_from("abcdefgh")

    @rule(key=keys, nbytes=st.integers(1, 60))
    def reserve(self, key: str, nbytes: int) -> None:
        if key in self.nbytes:
            with pytest.raises(ValueError, match="already"):
                self.lru.reserve(key, nbytes)
            return
        if self.makes_room(nbytes, lambda: self.lru.reserve(key, nbytes)):
            self.nbytes[key] = nbytes
            self.order.append(key)

    def makes_room(self, nbytes: int, act: Callable[[], list[object] | None]) -> bool:
        """Whether there is room for so much more; `act` must evict what the naive model does."""
        expected: list[str] = []
        free = CAPACITY - sum(self.nbytes.values())
        for candidate in self.order:
            if free >= nbytes:
                break
            if candidate in self.values and not self.pins.get(candidate):
                expected.append(candidate)
                free += self.nbytes[candidate]
        evicted = act()
        if free < nbytes:
            assert evicted is None
            return False
        assert evicted == [self.values[victim] for victim in expected]
        for victim in expected:
            self.left.append(self.values[victim])
            self.forget(victim)
        return True

    def forget(self, key: str) -> None:
        del self.nbytes[key]
        self.values.pop(key, None)
        self.pins.pop(key, None)
        self.order.remove(key)

    @precondition(lambda self: self.nbytes.keys() - self.values.keys())
    @rule(data=st.data(), nbytes=st.integers(0, 80))
    def fill(self, data: st.DataObject, nbytes: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.nbytes.keys() - self.values.keys())))
        value = object()
        if not self.makes_room(nbytes - self.nbytes[key], lambda: self.lru.fill(key, value, nbytes)):
            assert self.lru.get(key) is None
            return
        self.given.append(value)
        self.values[key] = value
        self.nbytes[key] = nbytes
        self.order.remove(key)
        self.order.append(key)

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert self.lru.get(key) is self.values.get(key)
        if key in self.values:
            self.order.remove(key)
            self.order.append(key)

    @precondition(lambda self: self.values)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.values)))
        self.lru.pin(key)
        self.pins[key] = self.pins.get(key, 0) + 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, pins in self.pins.items() if pins)))
        self.lru.unpin(key)
        self.pins[key] -= 1

    @precondition(lambda self: self.nbytes)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.nbytes)))
        if self.pins.get(key):
            with pytest.raises(ValueError, match="pinned"):
                self.lru.remove(key)
            return
        value = self.lru.remove(key)
        assert value is self.values.get(key)
        if value is not None:
            self.left.append(value)
        self.forget(key)

    @invariant()
    def bytes_are_the_sum_and_within_the_capacity(self) -> None:
        assert self.lru.used_bytes == sum(self.nbytes.values()) <= CAPACITY
        assert len(self.lru) == len(self.values)

    @invariant()
    def what_left_was_given_and_left_once(self) -> None:
        assert len(set(map(id, self.left))) == len(self.left)
        assert {id(value) for value in self.given} == {id(v) for v in self.left} | {id(v) for v in self.values.values()}

    def teardown(self) -> None:
        assert {id(value) for value in self.lru.clear()} == {id(value) for value in self.values.values()}
        assert self.lru.used_bytes == 0


TestLruHistory = LruHistory.TestCase
