"""What is remembered of loads that failed, and for how long."""

from __future__ import annotations

import pytest

from registry.errors import (
    DigestMismatchError,
    LoadQueueFullError,
    ModelUnusableError,
    OverloadedError,
    ScoreMeshError,
    StoreUnavailableError,
)
from scorer import failed_loads
from scorer.failed_loads import FailedLoads


def pauses(error: Exception, count: int) -> list[float]:
    """How long each of so many failures in a row is remembered, in seconds."""
    failed, now, found = FailedLoads(), 0.0, []
    for _ in range(count):
        failed.add("p", "acme", error, now)
        again = failed.find("p", now)
        assert again is not None
        found.append(again.retry_after_ms / 1000)
        assert failed.find("p", now + found[-1] - 0.001) is not None
        now += found[-1]
        assert failed.find("p", now) is None, "it's tried again"
    return found


def test_a_lasting_failure_is_remembered_longer_each_time() -> None:
    assert pauses(ModelUnusableError("broken"), 8) == [5, 10, 20, 40, 80, 160, 300, 300]


def test_a_dead_store_is_asked_again_soon() -> None:
    assert pauses(StoreUnavailableError("down"), 4) == [0.25, 0.5, 1, 1]


def test_the_same_is_said_again() -> None:
    failed = FailedLoads()
    failed.add("p", "acme", DigestMismatchError("not what was published"), 0.0)
    again = failed.find("p", 1.0)
    assert type(again) is DigestMismatchError
    assert (again.message, again.retry_after_ms) == ("not what was published", 4000)
    assert failed.find("q", 1.0) is None


def test_what_is_not_from_the_tree_shows_no_text() -> None:
    failed = FailedLoads()
    failed.add("p", "acme", ZeroDivisionError("secret"), 0.0)
    again = failed.find("p", 0.0)
    assert type(again) is ScoreMeshError
    assert "secret" not in again.message


@pytest.mark.parametrize("error", [OverloadedError("no room"), LoadQueueFullError("full")])
def test_what_is_not_the_models_fault_is_not_remembered(error: Exception) -> None:
    failed = FailedLoads()
    failed.add("p", "acme", error, 0.0)
    assert failed.find("p", 0.0) is None
    assert len(failed) == 0


def test_another_sort_of_failure_begins_anew() -> None:
    failed = FailedLoads()
    for _ in range(4):
        failed.add("p", "acme", ModelUnusableError("broken"), 0.0)
    failed.add("p", "acme", StoreUnavailableError("down"), 0.0)
    assert failed.find("p", 0.3) is None
    failed.add("p", "acme", ModelUnusableError("broken"), 0.0)
    assert failed.find("p", 5.0) is None


def test_success_a_purge_and_a_tenants_end_make_it_forget() -> None:
    failed = FailedLoads()
    for package, tenant in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]:
        failed.add(package, tenant, ModelUnusableError("broken"), 0.0)
    failed.succeeded("c1")
    failed.succeeded("never failed")
    failed.forget("a", {"b2"})
    assert [package for package in ("a1", "a2", "b1", "b2", "c1") if failed.find(package, 0.0)] == ["b1"]


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_loads, "CAPACITY", 2)
    failed = FailedLoads()
    for package in "abac":
        failed.add(package, "acme", ModelUnusableError("broken"), 0.0)
    assert [package for package in "abc" if failed.find(package, 0.0)] == ["a", "c"]
