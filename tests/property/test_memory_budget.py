from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scorer.memory_budget import MemoryBudget

MIB = 2**20
SIZES = st.integers(0, 4000).map(lambda mib: mib * MIB)


@given(limit=st.integers(100, 4000), share=st.floats(0.2, 1.0), room=SIZES, used=SIZES, taken=SIZES)
def test_room_is_within_its_bounds(limit: int, share: float, room: int, used: int, taken: int) -> None:
    budget = MemoryBudget(limit * MIB, int(limit * share) * MIB)
    got = budget.room_bytes(room, used, taken)
    assert budget.ceiling_bytes // 10 <= got <= budget.ceiling_bytes
    assert got <= max(room + budget.ceiling_bytes // 10, budget.ceiling_bytes // 10)


@given(
    base=st.integers(50, 300),
    gaps=st.floats(0.0, 0.4),
    room=st.integers(200, 1000),
    demand=st.integers(0, 3000),
)
def test_a_process_whose_models_cost_more_than_measured_comes_to_rest_under_its_limit(
    base: int, gaps: float, room: int, demand: int
) -> None:
    """Models fill their room; each measured byte costs some more, and the process takes something of its own."""
    budget = MemoryBudget(1000 * MIB, 900 * MIB)
    room *= MIB
    for _ in range(40):
        used = min(room, demand * MIB)
        taken = base * MIB + int(used * (1 + gaps))
        room = budget.room_bytes(room, used, taken)
    used = min(room, demand * MIB)
    taken = base * MIB + int(used * (1 + gaps))
    assert taken <= budget.limit_bytes * 1.001
    if demand == 3000:
        assert taken >= budget.limit_bytes * 0.9 or room >= budget.ceiling_bytes * 0.99
