"""What counts when the watch and a read of object storage tell of an application, in any order."""

from __future__ import annotations

import pytest

from registry import application_fold
from registry.application_fold import Applications
from registry.model import ApplicationRecord, ModelRef

OLD, NEW = ModelRef("vendor", "v1"), ModelRef("vendor", "v2")


def record(
    revision: int, shared: ModelRef | None = NEW, *, name: str = "lead", deleted: bool = False
) -> ApplicationRecord:
    return ApplicationRecord(application=name, revision=revision, shared=shared, deleted=deleted)


def test_nothing_is_known_until_somebody_tells() -> None:
    applications = Applications()
    assert not applications.knows("lead")
    assert applications.shared("lead") is None
    applications.remember("lead", None)
    assert applications.knows("lead")
    assert applications.shared("lead") is None


def test_what_the_watch_tells_counts_before_what_was_read() -> None:
    applications = Applications()
    applications.put(record(2))
    applications.remember("lead", record(1, OLD))
    assert applications.shared("lead") == NEW
    applications.remember("other", None)
    applications.put(record(1, name="other"))
    assert applications.shared("other") == NEW


def test_old_news_does_not_replace_what_was_read() -> None:
    applications = Applications()
    applications.remember("lead", record(3))
    applications.put(record(2, OLD))
    assert applications.shared("lead") == NEW
    applications.put(record(4, OLD))
    assert applications.shared("lead") == OLD


@pytest.mark.parametrize("gone", [record(2, None), record(2, deleted=True)])
def test_an_application_may_share_nothing(gone: ApplicationRecord) -> None:
    applications = Applications()
    applications.put(record(1))
    applications.put(gone)
    assert applications.knows("lead")
    assert applications.shared("lead") is None


def test_a_new_listing_and_a_deletion_make_unknown() -> None:
    applications = Applications()
    applications.put(record(1))
    applications.remember("other", None)
    applications.replace([record(1, name="third")])
    assert not applications.knows("lead")
    assert not applications.knows("other")
    assert applications.shared("third") == NEW
    applications.forget("third")
    applications.forget("never")
    assert not applications.knows("third")


def test_names_that_were_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application_fold, "CAPACITY", 3)
    applications = Applications()
    for number in range(5):
        applications.remember(str(number), None)
    assert [number for number in range(5) if applications.knows(str(number))] == [2, 3, 4]
