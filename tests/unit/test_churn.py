"""Which tenants undo their own loads."""

from __future__ import annotations

import pytest

from scorer import churn
from scorer.churn import Churn


def test_it_takes_many_evictions_in_a_short_time() -> None:
    seen = Churn()
    for number in range(4):
        seen.evicted_own("acme", 1.0, number * 0.1)
    assert not seen.is_churning("acme", 0.5)
    for number in range(4, 8):
        seen.evicted_own("acme", 1.0, number * 0.1)
    assert seen.is_churning("acme", 0.8)
    assert not seen.is_churning("umbrella", 0.8)
    assert not seen.is_churning("acme", 20.0), "it has been quiet"


def test_models_that_were_there_for_a_while_do_not_count() -> None:
    seen = Churn()
    for _ in range(50):
        seen.evicted_own("acme", churn.YOUNG_S, 0.0)
    assert not seen.is_churning("acme", 0.0)


def test_rare_evictions_never_add_up() -> None:
    seen = Churn()
    for number in range(200):
        seen.evicted_own("acme", 1.0, number * 5.0)
        assert not seen.is_churning("acme", number * 5.0)


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(churn, "_CAPACITY", 3)
    seen = Churn()
    for tenant in "abc":
        seen.evicted_own(tenant, 1.0, 0.0)
    for _ in range(6):
        seen.evicted_own("d", 1.0, 0.0)
    assert not seen.is_churning("d", 0.0), "there was no room"
    for _ in range(6):
        seen.evicted_own("e", 1.0, 100.0)
    assert seen.is_churning("e", 100.0), "the others had become rare"
    assert len(seen._counts) == 1
