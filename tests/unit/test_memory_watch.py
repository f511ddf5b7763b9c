"""How a process's memory becomes room for models; what the kernel would say is told by the test."""

from __future__ import annotations

import pytest

from scorer import memory_watch
from scorer.memory_budget import MemoryBudget
from scorer.memory_watch import MemoryWatch

MIB = 2**20


class Process:
    """`taken_mib`: what it takes. Models that leave give their memory back when it's trimmed."""

    def __init__(self, taken_mib: int, used_mib: int) -> None:
        self.taken_mib, self.used_bytes, self.capacity_bytes = taken_mib, used_mib * MIB, used_mib * MIB
        self.freed_mib = 0
        self.resized: list[int] = []
        self.always: list[bool] = []

    def resize(self, capacity_bytes: int) -> None:
        self.resized.append(capacity_bytes // MIB)
        self.capacity_bytes = capacity_bytes
        self.freed_mib += max(0, self.used_bytes - capacity_bytes) // MIB
        self.used_bytes = min(self.used_bytes, capacity_bytes)

    async def trim(self, *, always: bool = False) -> None:
        self.always.append(always)
        self.taken_mib -= self.freed_mib
        self.freed_mib = 0


def watched(process: Process, limit_mib: int, monkeypatch: pytest.MonkeyPatch) -> MemoryWatch:
    monkeypatch.setattr(memory_watch, "resident_set_bytes", lambda: process.taken_mib * MIB)
    return MemoryWatch(process, process, MemoryBudget(limit_mib * MIB, limit_mib * MIB))


async def test_a_process_over_its_limit_is_under_it_after_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(taken_mib=700, used_mib=500)
    await watched(process, 600, monkeypatch).look()
    assert process.resized == [400]
    assert process.taken_mib == 600


async def test_what_is_on_its_way_back_to_the_kernel_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(taken_mib=700, used_mib=500)
    process.freed_mib = 100
    await watched(process, 600, monkeypatch).look()
    assert process.resized == []
    await watched(process, 600, monkeypatch).look()
    assert process.always == [True], "nothing is to be won by it the second time"


async def test_what_costs_no_room_goes_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator stands still meanwhile, which a request that waits for a load would feel."""
    process = Process(taken_mib=600, used_mib=500)
    watch = watched(process, 1000, monkeypatch)
    process.capacity_bytes = 1000 * MIB - 100 * MIB
    for _ in range(20):
        await watch.look()
    assert process.always == [False, False]


async def test_a_small_change_evicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(taken_mib=604, used_mib=500)
    await watched(process, 600, monkeypatch).look()
    assert process.resized == []


async def test_going_over_the_limit_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(taken_mib=700, used_mib=10)
    watch = watched(process, 600, monkeypatch)
    for _ in range(3):
        await watch.look()
    process.taken_mib = 500
    with caplog.at_level("INFO"):
        for _ in range(3):
            await watch.look()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "takes 700 MiB of the 600 MiB that it may" in caplog.text
