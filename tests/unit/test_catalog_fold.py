"""The rules of the catalog's memory, one by one; the races are in tests/property/test_catalog_race.py."""

from __future__ import annotations

import pytest

from registry.catalog_fold import VERSIONS_PER_MODEL, CatalogFold
from registry.model import ModelRecord, ModelRef, ModelVersion, Runtime

REF = ModelRef("acme", "fraud")


def version(name: str) -> ModelVersion:
    return ModelVersion(name, "package", "acme", "0" * 64, "1" * 64, Runtime.LIGHTGBM, 1, 1)


def record(revision: int, **aliases: str) -> ModelRecord:
    return ModelRecord(revision, {alias: version(name) for alias, name in aliases.items()})


def held(fold: CatalogFold, ref: ModelRef, revision: int, value: ModelRecord | None) -> None:
    assert fold.finish(fold.begin(ref), revision, value) is not None


def test_a_read_is_held_and_found_by_alias_and_by_version() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 5, record(1, live="1", candidate="2"))
    assert fold.lookup(REF, "", "") == version("1")
    assert fold.lookup(REF, "", "candidate") == version("2")
    assert fold.lookup(REF, "2", "") == version("2")
    assert fold.lookup(REF, "3", "live") is None
    assert fold.lookup(REF, "", "nobody") is None
    assert fold.lookup(ModelRef("acme", "other"), "", "") is None


def test_an_event_replaces_what_is_older_and_only_that() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 5, record(1, live="1"))
    fold.apply(REF, 5, record(9, live="9"))
    assert fold.lookup(REF, "", "") == version("1")
    fold.apply(REF, 6, record(2, live="2"))
    assert fold.lookup(REF, "", "") == version("2")
    fold.apply(REF, 4, record(0, live="0"))
    assert fold.lookup(REF, "", "") == version("2")


def test_an_event_adds_nothing() -> None:
    fold = CatalogFold(10)
    fold.apply(REF, 6, record(2, live="2"))
    fold.forget(REF, 7)
    assert len(fold) == 0
    assert not fold.wants(REF)


def test_an_event_during_a_read_beats_an_older_answer() -> None:
    fold = CatalogFold(10)
    read = fold.begin(REF)
    assert fold.wants(REF)
    fold.apply(REF, 6, record(2, live="2"))
    fold.apply(REF, 7, record(3, live="3"))
    assert fold.finish(read, 5, record(1, live="1")) is not None
    assert fold.lookup(REF, "", "") == version("3")
    fold.apply(REF, 7, record(9, live="9"))
    assert fold.lookup(REF, "", "") == version("3")


def test_an_event_during_a_read_loses_to_a_newer_answer() -> None:
    fold = CatalogFold(10)
    read = fold.begin(REF)
    fold.apply(REF, 6, record(2, live="2"))
    fold.finish(read, 8, record(3, live="3"))
    assert fold.lookup(REF, "", "") == version("3")


@pytest.mark.parametrize("fault", ["gap", "forget"])
def test_a_read_across_a_gap_or_a_deletion_is_made_again(fault: str) -> None:
    fold = CatalogFold(10)
    read = fold.begin(REF)
    if fault == "gap":
        fold.gap(100)
    else:
        fold.forget(REF, 100)
    assert fold.finish(read, 5, record(1, live="1")) is None
    assert len(fold) == 0
    held(fold, REF, 101, record(2, live="2"))


def test_a_deletion_is_forgotten_unless_it_is_old_news() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 5, record(1, live="1"))
    fold.forget(REF, 5)
    assert len(fold) == 1
    fold.forget(REF, 6)
    assert len(fold) == 0


def test_what_is_held_answers_across_a_gap_and_gives_way_to_a_read() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 1000, record(9, live="9"))
    fold.gap(5)  # etcd was restored and counts from a lower revision
    assert fold.lookup(REF, "", "") == version("9")
    held(fold, REF, 5, record(1, live="1"))
    assert fold.lookup(REF, "", "") == version("1")


def test_after_a_gap_to_a_lower_revision_events_count_again() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 1000, record(9, live="9"))
    fold.gap(5)
    fold.apply(REF, 6, record(1, live="1"))
    assert fold.lookup(REF, "", "") == version("1")


def test_least_recently_used_leaves_first() -> None:
    fold = CatalogFold(2)
    a, b, c = (ModelRef("acme", name) for name in "abc")
    held(fold, a, 1, record(1, live="1"))
    held(fold, b, 1, record(1, live="1"))
    fold.lookup(a, "", "")
    held(fold, c, 1, record(1, live="1"))
    assert fold.refs() == [c, a]
    fold.find(a)
    assert fold.refs() == [a, c]


def test_an_event_is_no_use() -> None:
    fold = CatalogFold(2)
    a, b = (ModelRef("acme", name) for name in "ab")
    held(fold, a, 1, record(1, live="1"))
    held(fold, b, 1, record(1, live="1"))
    fold.apply(a, 2, record(2, live="2"))
    assert fold.refs() == [b, a]


def test_an_event_voids_what_is_held_of_versions_that_no_alias_means() -> None:
    """One that was missing may have been published, one that was there may have been retired."""
    fold = CatalogFold(10)
    held(fold, REF, 1, record(1, live="1"))
    entry = fold.find(REF)
    assert entry is not None
    entry.remember("7", version("7"))
    entry.remember("8", None)
    entry.remember("9", None, retired=True)
    assert entry.retired == {"9"}
    fold.apply(REF, 2, record(2, live="2"))
    after = fold.find(REF)
    assert after is not None
    assert after.versions == {"2": version("2")}
    assert not after.retired


def test_versions_of_one_model_are_bounded_and_the_aliases_stay() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 1, record(1, live="live-one"))
    entry = fold.find(REF)
    assert entry is not None
    for number in range(10 * VERSIONS_PER_MODEL):
        entry.remember(str(number), None)
        assert len(entry.versions) <= VERSIONS_PER_MODEL
    assert fold.lookup(REF, "live-one", "") == version("live-one")


def test_an_unknown_model_is_remembered_as_unknown() -> None:
    fold = CatalogFold(10)
    held(fold, REF, 5, None)
    entry = fold.find(REF)
    assert entry is not None
    assert entry.record is None
    assert fold.lookup(REF, "", "") is None
    fold.apply(REF, 6, record(1, live="1"))
    assert fold.lookup(REF, "", "") == version("1")


def test_two_reads_of_one_model_at_a_time_are_a_bug() -> None:
    fold = CatalogFold(10)
    read = fold.begin(REF)
    with pytest.raises(ValueError, match="under way"):
        fold.begin(REF)
    fold.abandon(read)
    fold.abandon(fold.begin(REF))
    assert not fold.wants(REF)
