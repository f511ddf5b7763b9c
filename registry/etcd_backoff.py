"""How long to wait before the next try: doubling, with jitter, so that a fleet does not come back in one beat."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Waits of 25-50 ms at first, doubled each time up to `cap_s`, each cut by a random half. A caller that
    pauses between its tries never spins.
    """

    def __init__(self, first_s: float = 0.05, cap_s: float = 2.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def reset(self) -> None:
        """Begin with short waits again, after a success."""
        self._next_s = self._first_s

    async def pause(self, at_most_s: float = float("inf")) -> None:
        """Wait for the time that is due."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        self._next_s = min(self._next_s * 2, self._cap_s)
        await asyncio.sleep(max(0.0, min(wait_s, at_most_s)))
