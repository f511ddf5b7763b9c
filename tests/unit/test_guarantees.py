"""Memory that is a tenant's own, and memory that it may have at most, of a scorer with 1,000 bytes."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from registry.model import ModelSchema, TenantRecord
from scorer.engine import Rows
from scorer.guarantees import Guarantees
from scorer.resident import Resident
from scorer.residents import Residents


class NoModel:
    resident_bytes = 0

    def predict(self, _rows: Rows) -> list[np.ndarray]:
        return []

    def close(self) -> None: ...


class Memory:
    """Models of 100 bytes, each loaded 10 s after the one before it."""

    def __init__(self) -> None:
        self.residents: Residents[Resident] = Residents(1000)
        self.guarantees = Guarantees(self.residents)
        self.now = 0.0

    def load(self, tenant: str, count: int) -> None:
        for _ in range(count):
            self.now += 10.0
            key = f"{tenant}-{self.now}"
            if self.residents.reserve(key, 100, tenant=tenant, now=self.now) is not None:
                resident = Resident(NoModel(), ModelSchema((), ()), 100, 3, 1, 1, tenant)
                self.residents.fill(key, resident, 100, cost_us=1.0, now=self.now)

    def used(self, *tenants: str) -> list[int]:
        return [self.residents.used_by(tenant) for tenant in tenants]


def record(tenant: str, guaranteed: int = 0, most: int = 0) -> TenantRecord:
    return TenantRecord(tenant=tenant, guaranteed_bytes=guaranteed, max_bytes=most)


def test_what_is_guaranteed_stays_however_much_others_load() -> None:
    memory = Memory()
    assert memory.guarantees.set(record("a", 300)) == []
    memory.load("a", 3)
    memory.load("b", 50)
    assert memory.used("a", "b") == [300, 700]
    memory.guarantees.set(record("a"))
    memory.load("b", 200)
    assert memory.used("a")[0] < 300, "it's no longer guaranteed"


def test_over_its_maximum_a_tenant_evicts_its_own() -> None:
    memory = Memory()
    memory.guarantees.set(record("a", most=200))
    memory.load("b", 3)
    memory.load("a", 10)
    assert memory.used("a", "b") == [200, 300]
    assert memory.guarantees.max_bytes("a") == 200
    assert memory.guarantees.max_bytes("b") == 0


def test_a_maximum_that_falls_takes_effect_at_once() -> None:
    memory = Memory()
    memory.load("a", 6)
    memory.now += 10
    assert len(memory.guarantees.set(record("a", most=200))) == 4
    assert memory.used("a") == [200]


def test_guarantees_over_the_memory_are_scaled_down_alike_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    with caplog.at_level(logging.WARNING):
        memory.guarantees.set(record("a", 400))
        assert not caplog.records
        memory.guarantees.set(record("b", 1200, 700))
        memory.guarantees.set(record("c", 2000))
    assert [each.getMessage() for each in caplog.records] == [
        "tenants have more memory guaranteed than there is: each gets 56 %"
    ]
    assert memory.guarantees.max_bytes("b") == 700
    memory.load("a", 2)
    memory.load("b", 3)
    memory.load("c", 50)
    assert memory.used("a", "b", "c") == [100, 300, 600], "100, 300 and 500 are guaranteed"


def test_they_follow_the_memory_that_there_is() -> None:
    memory = Memory()
    memory.guarantees.set(record("a", 1800))
    memory.load("a", 10)
    memory.residents.resize(500, memory.now + 10)
    memory.guarantees.fit()
    memory.residents.resize(500, memory.now + 10)
    memory.load("b", 50)
    assert 400 <= memory.used("a")[0] <= 500, "450 are guaranteed, in models of 100"
    assert memory.residents.used_bytes <= 500
