"""How fast one tenant's loads may fill the memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorer.intake import Intake


def wait_s(intake: Intake, nbytes: int, now: float, *, others: int, tenant: str = "a", capacity: int = 100) -> float:
    return intake.wait_s(tenant, nbytes, capacity_bytes=capacity, others_bytes=others, now=now, young_s=1.0)


def test_a_tenant_that_is_alone_has_the_whole_memory() -> None:
    intake = Intake()
    for number in range(9):
        intake.add("a", 10, number / 10, 1.0)
    assert wait_s(intake, 10, 0.9, others=0) == 0
    assert wait_s(intake, 20, 0.9, others=0) > 0


def test_beside_others_it_has_what_they_leave_and_a_quarter_in_any_case() -> None:
    intake = Intake()
    for number in range(2):
        intake.add("a", 10, number / 10, 1.0)
    assert wait_s(intake, 5, 0.5, others=100) == 0
    assert wait_s(intake, 6, 0.5, others=100) == 0.5, "until the first is a second old"
    assert wait_s(intake, 20, 0.5, others=90) == pytest.approx(0.6), "until the second is"
    assert wait_s(intake, 10, 0.5, others=70) == 0
    assert wait_s(intake, 50, 0.5, others=100, tenant="b") == 0


def test_what_is_no_longer_just_loaded_does_not_count() -> None:
    intake = Intake()
    intake.add("a", 90, 0.0, 1.0)
    assert wait_s(intake, 90, 0.99, others=100) > 0
    assert wait_s(intake, 90, 1.0, others=100) == 0
    assert len(intake) == 0


def test_tenants_that_have_gone_are_forgotten() -> None:
    intake = Intake()
    for number in range(5_000):
        intake.add(f"t{number}", 1, number / 100, 1.0)
    assert len(intake) <= 1_000


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(1, 40)), max_size=50), st.integers(0, 100))
def test_what_is_just_loaded_never_takes_more_than_the_bound_but_for_a_single_load(
    loads: list[tuple[float, int]], others: int
) -> None:
    intake = Intake()
    now, begun = 0.0, list[tuple[float, int]]()
    for pause_s, nbytes in loads:
        now += pause_s
        now += wait_s(intake, nbytes, now, others=others) * (1 + 1e-9) + 1e-9
        intake.add("a", nbytes, now, 1.0)
        begun.append((now, nbytes))
        young = [each for at, each in begun if at + 1.0 > now]
        assert sum(young) <= max(25, 100 - others) or len(young) == 1
