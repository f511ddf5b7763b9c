"""Purging tenants while their models are loaded, used, given up and evicted: in any order nothing is closed twice, used
after it was closed, or left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import OverloadedError, StoreUnavailableError
from registry.model import ModelSchema, ModelVersion, Runtime
from scorer import residents
from scorer.cache import ModelCache, Resident
from scorer.engine import Rows

PACKAGES = ["a1", "a2", "b1", "b2"]  # the first letter is the tenant
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["use", "use", "use", "cancel", "purge", "purge package", "land", "land large", "fail", "turn"]
        ),
        st.sampled_from(PACKAGES),
        st.integers(0, 4),
    ),
    max_size=40,
)


class ClosableModel:
    resident_bytes = 0

    def __init__(self) -> None:
        self.closed = 0

    def predict(self, rows: Rows) -> list[np.ndarray]:
        assert not self.closed
        return [rows.dense[:, 0]]

    def close(self) -> None:
        self.closed += 1


class Play:
    """A cache with room for three models of four, whose loads wait until they are let go."""

    def __init__(self) -> None:
        self.cache = ModelCache(30, self._load, patience_s=0.0)
        self.made: list[ClosableModel] = []
        self.gates: dict[str, asyncio.Future[int]] = {}
        self.users: list[tuple[str, asyncio.Task[None]]] = []
        self.uses: Counter[str] = Counter()

    async def _load(self, version: ModelVersion) -> Resident:
        gate = self.gates[version.package] = asyncio.get_running_loop().create_future()
        nbytes = await gate
        if not nbytes:
            raise StoreUnavailableError("away")
        self.made.append(ClosableModel())
        return Resident(self.made[-1], ModelSchema((), ()), nbytes, 3, 1, 1)

    async def use(self, package: str, turns: int) -> None:
        version = ModelVersion("1", package, package[0], "", "", Runtime.LIGHTGBM, 1, 10)
        with contextlib.suppress(OverloadedError, StoreUnavailableError):
            async with self.cache.borrow(version) as resident:
                for _ in range(turns + 1):
                    assert isinstance(resident.model, ClosableModel)
                    assert not resident.model.closed
                    await asyncio.sleep(0)

    def let_go(self, package: str, nbytes: int) -> None:
        """End a load: a model of so many bytes, 10 are said; with 0 it fails."""
        gate = self.gates.get(package)
        if gate is not None and not gate.done():
            gate.set_result(nbytes)

    def act(self, action: str, package: str, turns: int) -> None:
        match action:
            case "use":
                self.users.append((package, asyncio.create_task(self.use(package, turns))))
            case "cancel":
                for used, task in self.users:
                    if used == package:
                        task.cancel()
            case "purge":
                self.cache.purge(package[0], ())
            case "purge package":
                self.cache.purge("", {package})
            case _:
                self.let_go(package, {"land": 10, "land large": 20}.get(action, 0))

    async def settle(self) -> None:
        while not all(task.done() for _, task in self.users) or self.cache._loads._runs:
            for package in PACKAGES:
                self.let_go(package, 10)
            await asyncio.sleep(0)
        for _, task in self.users:
            assert task.cancelled() or task.exception() is None


@given(ACTIONS)
def test_any_order_leaves_the_cache_whole(actions: list[tuple[str, str, int]]) -> None:
    asyncio.run(_play(actions))


async def _play(actions: list[tuple[str, str, int]]) -> None:
    with mock.patch.object(residents, "JUST_LOADED_S", 0.0):
        await _play_now(actions)


async def _play_now(actions: list[tuple[str, str, int]]) -> None:
    play = Play()
    for action, package, turns in actions:
        play.act(action, package, turns)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert play.cache.used_bytes <= 30
    await play.settle()
    cache = play.cache
    assert not cache._purged
    assert cache.used_bytes == sum(resident.nbytes for _, resident in cache._residents.items())
    assert [model.closed for model in play.made].count(0) == len(cache)
    assert all(model.closed <= 1 for model in play.made)
    assert not any(cache._residents.is_pinned(package) for package, _ in cache._residents.items())
    for tenant in "ab":
        cache.purge(tenant, ())
    assert len(cache) == cache.used_bytes == 0
    assert all(model.closed == 1 for model in play.made)
    await cache.aclose()
