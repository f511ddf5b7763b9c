from __future__ import annotations

import pytest

from scorer.memory_budget import MemoryBudget, size_bytes

MIB = 2**20
BUDGET = MemoryBudget(limit_bytes=1000 * MIB, ceiling_bytes=900 * MIB)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("512MiB", 512 * MIB), ("2GiB", 2**31), ("1.5 GB", 1_500_000_000), ("4096", 4096), ("70%", 700), ("0.5kib", 512)],
)
def test_sizes(text: str, wanted: int) -> None:
    assert size_bytes(text, 1000) == wanted


@pytest.mark.parametrize("text", ["", "much", "-5", "0", "101%", "0%", "5 parsecs", "5TiB", "1e9", "5iB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        size_bytes(text, 1000)


def test_models_get_what_the_process_leaves() -> None:
    assert BUDGET.room_bytes(850 * MIB, used_bytes=500 * MIB, resident_set_bytes=650 * MIB) == 850 * MIB
    assert BUDGET.room_bytes(850 * MIB, used_bytes=500 * MIB, resident_set_bytes=700 * MIB) == 800 * MIB


def test_a_process_over_its_limit_loses_as_much_at_once() -> None:
    assert BUDGET.room_bytes(900 * MIB, used_bytes=900 * MIB, resident_set_bytes=1200 * MIB) == 700 * MIB


def test_room_rises_slowly_and_to_the_ceiling() -> None:
    room, steps = 300 * MIB, []
    while room < BUDGET.ceiling_bytes:
        room = BUDGET.room_bytes(room, used_bytes=0, resident_set_bytes=50 * MIB)
        steps.append(room)
    assert steps == [(300 + 90 * step) * MIB for step in range(1, 7)] + [900 * MIB]


def test_a_tenth_stays_whatever_else_is_taken() -> None:
    assert BUDGET.room_bytes(900 * MIB, used_bytes=0, resident_set_bytes=5000 * MIB) == 90 * MIB
