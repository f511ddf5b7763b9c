from __future__ import annotations

import psutil

from scorer.memory import allocated_bytes, measure_load, release_free_memory

SIZE = 50_000_000


def _resident_set_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_a_load_is_measured() -> None:
    block, taken = measure_load(lambda: bytearray(SIZE))
    assert len(block) == SIZE
    assert SIZE <= taken < SIZE * 1.1


def test_what_is_freed_is_not_counted() -> None:
    _, taken = measure_load(lambda: len(bytearray(SIZE)))
    assert taken < SIZE / 10


def test_freed_memory_goes_back_to_the_kernel() -> None:
    pieces = [bytearray(100_000) for _ in range(500)]  # small enough for the heap, which glibc keeps
    keep = bytearray(100_000)
    full, allocated = _resident_set_bytes(), allocated_bytes()
    pieces.clear()
    release_free_memory()
    assert allocated - allocated_bytes() > 40_000_000
    assert full - _resident_set_bytes() > 40_000_000
    del keep
