"""Steady load through the routers while something is done to them: every answer is checked, every failure is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from client import AsyncClient, Residency, ScoreError
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.models import Fresh
from tests.e2e.raw import PATIENCE_S

_CALLERS = 6
_PAUSE_S = 0.005  # leaves the processors to the servers that start


class Load:
    """`async with Load(...)`: callers that score in a steady stream, each model in turn."""

    def __init__(self, cluster: Cluster, models: list[Fresh], client: AsyncClient) -> None:
        self._cluster = cluster
        self._models = models
        self._client = client
        self._stopped = False
        self.failures: list[str] = []
        self.served: Counter[str] = Counter()
        self.residencies: Counter[Residency] = Counter()

    @property
    def answers(self) -> int:
        return self.served.total()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(caller)) for caller in range(_CALLERS)]
        await self.more(50)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _call(self, caller: int) -> None:
        number = caller
        while not self._stopped:
            number += 1
            fresh = self._models[number % len(self._models)]
            try:
                scores = await self._client.score(*fresh.ref, fresh.rows, timeout_s=PATIENCE_S)
            except ScoreError as error:
                self.failures.append(str(error))
                await asyncio.sleep(0.05)
                continue
            if scores.values.tobytes() != fresh.expected.tobytes():
                self.failures.append(f"{fresh.ref} was scored wrongly by {scores.served_by}")
            self.served[scores.served_by] += 1
            self.residencies[scores.residency] += 1
            await asyncio.sleep(_PAUSE_S)

    async def more(self, answers: int) -> Counter[str]:
        """Wait for so many more answers; who gave them."""
        before = self.served.copy()
        async with asyncio.timeout(60):
            while (self.served - before).total() < answers:
                await asyncio.sleep(0.01)
        return self.served - before

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait, while the load goes on, until a condition holds. It is looked at in a thread, so it may block."""
        await asyncio.to_thread(wait_until, condition, what)
