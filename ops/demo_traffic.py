"""The demo's traffic: several callers at once that score held-out rows, one by one, many at a time, and in batches.

Contract: every request that is sent ends up in the tally, as an answer that was checked or as a failure. What is asked
for is drawn from seeded generators; only the order in which the callers get their turns differs between runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from client import AsyncClient, ScoreError, ScoreItem
from ops.demo_data import DemoModel
from ops.demo_tally import Tally
from ops.task_group import task_group

CALLERS = 8
_TIMEOUT_S = 10.0
_ONE_ROW, _MANY_ROWS = 0.6, 0.3  # the rest are batches
_BATCH_ITEMS = 6
Picked = tuple[DemoModel, NDArray[np.int64]]


class Traffic:
    """`phase` is noted with each request that is sent from now on."""

    def __init__(self, client: AsyncClient, models: Sequence[DemoModel], tally: Tally) -> None:
        self.phase = 0
        self._client, self._models, self._tally = client, list(models), tally
        self._stopped = False
        self._advanced = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send requests inside this context; leaving it waits for the last answer."""
        async with task_group() as tasks:
            for seed in range(CALLERS):
                tasks.create_task(self._call(np.random.default_rng(seed)))
            yield
            self._stopped = True

    async def wait_for(self, is_enough: Callable[[], bool]) -> None:
        """Wait until the tally shows what is wanted; looked at after each call."""
        async with self._advanced:
            await self._advanced.wait_for(is_enough)

    async def _call(self, random: np.random.Generator) -> None:
        while not self._stopped:
            draw = random.random()
            if draw < _ONE_ROW:
                await self._score(self._pick(random, 1))
            elif draw < _ONE_ROW + _MANY_ROWS:
                await self._score(self._pick(random, int(random.integers(2, 100))))
            else:
                await self._score_batch([self._pick(random, int(random.integers(1, 8))) for _ in range(_BATCH_ITEMS)])
            async with self._advanced:
                self._advanced.notify_all()

    def _pick(self, random: np.random.Generator, count: int) -> Picked:
        model = self._models[int(random.integers(len(self._models)))]
        return model, random.integers(len(model.rows), size=count)

    async def _score(self, picked: Picked) -> None:
        (model, rows), phase, began = picked, self.phase, perf_counter()
        try:
            scores = await self._client.score(
                *model.ref, model.rows[rows], string_columns=model.strings_of(rows), timeout_s=_TIMEOUT_S
            )
        except ScoreError as error:
            self._tally.failures.append(f"{model.ref}: {error}")
            return
        self._tally.add_latency(scores, (perf_counter() - began) * 1000)
        self._tally.add_answer(phase, model, rows, scores)

    async def _score_batch(self, batch: Sequence[Picked]) -> None:
        phase = self.phase
        items = [
            ScoreItem(*model.ref, model.rows[rows], string_columns=model.strings_of(rows)) for model, rows in batch
        ]
        try:
            results = await self._client.score_batch(items, timeout_s=_TIMEOUT_S)
        except ScoreError as error:
            self._tally.failures.append(f"a batch of {len(items)}: {error}")
            return
        for (model, rows), result in zip(batch, results, strict=True):
            if isinstance(result, ScoreError):
                self._tally.failures.append(f"{model.ref} in a batch: {result}")
            else:
                self._tally.add_answer(phase, model, rows, result)
