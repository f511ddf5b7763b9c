"""Load at a fixed rate while something is done to servers: requests are sent when they are due, whatever becomes of
those before. Every answer is compared with the library's own prediction, every failure is kept.

It goes through our client with all routers, as a product service would. A sender that had no processor for a moment
sends what is overdue at once; what it could not send for longer than `_CATCH_UP_S` is not made up for, or a machine
that is too busy for the rate would only ever fall further behind. What was sent in the end is logged, so
`pytest --log-cli-level=INFO tests/chaos/...` tells whether it was the rate.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from client import AsyncClient, ScoreError
from tests.e2e.cluster import wait_until
from tests.e2e.models import Fresh

RATE = 500.0
DEADLINE_S = 5.0
_CATCH_UP_S = 0.2
_BEGIN = 100
_log = logging.getLogger(__name__)


class OpenLoad:
    """`async with OpenLoad(...)`: requests for each model in turn, `rate` a second. `longest_s`: of all answers, from
    when the request was sent. `failures`: of whatever failed, or was answered wrongly.
    """

    def __init__(
        self, models: Sequence[Fresh], client: AsyncClient, *, rate: float = RATE, deadline_s: float = DEADLINE_S
    ) -> None:
        self._models, self._client, self._rate, self._deadline_s = models, client, rate, deadline_s
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.sent = 0
        self.longest_s = 0.0
        self.failures: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._began = self._due_from = self._loop.time()
        self._sending = asyncio.create_task(self._send())
        await self.more(_BEGIN)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._took_s = self._loop.time() - self._began
        await self._sending
        while self._tasks:
            await asyncio.wait(self._tasks)
        _log.info(self.told)

    async def _send(self) -> None:
        while not self._stopping.is_set():
            self._send_due()
            try:
                async with asyncio.timeout_at(self._due_from + self.sent / self._rate):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _send_due(self) -> None:
        now = self._loop.time()
        self._due_from = max(self._due_from, now - _CATCH_UP_S - self.sent / self._rate)
        due = int((now - self._due_from) * self._rate) + 1
        for number in range(self.sent, due):
            task = asyncio.create_task(self._ask(self._models[number % len(self._models)]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.sent = max(self.sent, due)

    async def _ask(self, fresh: Fresh) -> None:
        began = self._loop.time()
        try:
            scores = await self._client.score(*fresh.ref, fresh.rows, timeout_s=self._deadline_s)
        except ScoreError as error:
            self.failures[str(error)] += 1
            return
        self.longest_s = max(self.longest_s, self._loop.time() - began)
        self.served[scores.served_by] += 1
        if scores.values.tobytes() != fresh.expected.tobytes():
            self.failures[f"{fresh.ref} was scored wrongly by {scores.served_by}"] += 1

    @property
    def told(self) -> str:
        """What was done, once it's over."""
        rate = self.sent / self._took_s
        return f"{self.sent} requests, {rate:.0f} a second; the slowest took {self.longest_s:.2f} s"

    async def more(self, answers: int) -> Counter[str]:
        """Wait for so many more answers; who gave them."""
        before = self.served.copy()
        async with asyncio.timeout(60):
            while (self.served - before).total() < answers:
                await asyncio.sleep(0.01)
        return self.served - before

    async def settle(self) -> None:
        """Wait until all that was sent until now has come to an end, while more is sent."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait, while the load goes on, until a condition holds. It is looked at in a thread, so it may block."""
        await asyncio.to_thread(wait_until, condition, what)

    def busiest(self, among: Sequence[str]) -> str:
        """Who of these answered most."""
        return max(among, key=lambda name: self.served[name])
