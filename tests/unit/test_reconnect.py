"""Routers that lost the same scorer don't come back in one beat."""

from __future__ import annotations

import random

from router.channel import Channel


def _waits(seed: float, count: int) -> list[float]:
    channel = Channel("127.0.0.1:1", b"/s.S/Run", jitter=random.Random(seed).random)
    return [channel._next_backoff_s() for _ in range(count)]


async def test_pauses_grow_to_a_bound_and_never_vanish() -> None:
    for seed in range(50):
        waits = _waits(seed, 20)
        assert all(0.025 <= wait <= 2.0 for wait in waits)
        assert all(wait >= 1.0 for wait in waits[7:]), "half of the longest"


async def test_attempts_of_many_routers_are_spread() -> None:
    """When the k-th attempt comes, from the loss on: from the third attempt on no tenth of its span has a third of 300
    routers.
    """
    routers = [_waits(seed, 8) for seed in range(300)]
    for attempt in range(3, 9):
        at = sorted(sum(waits[:attempt]) for waits in routers)
        width = (at[-1] - at[0]) / 10
        assert at[-1] - at[0] > 0.5 * min(2.0, 0.05 * 2 ** (attempt - 1))
        for number in range(10):
            low = at[0] + number * width
            assert sum(low <= one < low + width for one in at) < 100
