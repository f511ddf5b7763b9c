"""Loading what traffic is about to come for: at the start, and when another scorer has vanished.

Contract: `warm_up` returns when the models that this scorer will be asked for, and that others have in memory, are in
memory here as far as there is room, after `limit_s` at the latest. `run` does the same in the background for what
falls to this scorer when a member vanishes without having handed it over: one model at a time, and at most one round in
`_PAUSE_S`. Both ask the members, not the store or etcd; whatever fails is left out, and loads with its first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence

from registry.bounded import for_each
from registry.errors import OverloadedError
from registry.member_fold import MembersView
from registry.model import Member
from registry.placement import Placement
from registry.status import failure_of
from scorer.cache import ModelCache
from scorer.inheritance import Held, settled, to_warm, vanished
from scorer.neighbours import Neighbours
from scorer.placing import Placing
from scorer.residency import ResidencyService

_ASK_S = 5.0
_AT_ONCE = 4
_SETTLE_S = 1.0
_PAUSE_S = 5.0
_INHERIT_S = 60.0
_INHERITED_SHARE = 4  # a quarter of the memory
_log = logging.getLogger(__name__)


class Warming:
    """See the module. It's told of the members by `see`."""

    def __init__(
        self, neighbours: Neighbours, cache: ModelCache, residency: ResidencyService, placing: Placing
    ) -> None:
        self._neighbours, self._cache, self._residency, self._placing = neighbours, cache, residency, placing
        self._seen_myself = asyncio.Event()
        self._vanished = asyncio.Event()
        self._before: Sequence[Member] = ()
        self._loaded = 0

    def see(self, view: MembersView) -> None:
        """The members now."""
        before, self._neighbours.view = self._neighbours.view, view
        if self._neighbours.me in view.members:
            self._seen_myself.set()
        if vanished(before, view) and not self._vanished.is_set():
            self._before = before.placed
            self._vanished.set()

    async def warm_up(self, limit_s: float) -> None:
        """Load what others have and this scorer, which warms, will own."""
        try:
            async with asyncio.timeout(limit_s):
                await self._seen_myself.wait()
                await self._placing.refresh()
                members = self._neighbours.view.placed
                await self._warm(self._placing.place(members), members, self._free_bytes, _AT_ONCE)
        except TimeoutError:
            _log.warning("not all is loaded that others have in memory: %g s are over", limit_s)
        except Exception:
            _log.exception("can't load what others have in memory")
        _log.info("warm: %d models that others had", self._loaded)

    async def run(self) -> None:
        """Inherit from those that vanish, until cancelled."""
        while True:
            await self._vanished.wait()
            await asyncio.sleep(_SETTLE_S * random.uniform(1.0, 2.0))  # noqa: S311 - others vanish, others ask
            before = self._before
            self._vanished.clear()
            try:
                async with asyncio.timeout(_INHERIT_S):
                    await self._inherit(before)
            except Exception:
                _log.exception("can't load what another scorer had")
            await asyncio.sleep(_PAUSE_S)

    async def _inherit(self, before: Sequence[Member]) -> None:
        await self._placing.refresh()
        room_bytes = max(self._free_bytes, self._cache.capacity_bytes // _INHERITED_SHARE)
        await self._warm(self._placing.place(settled(before)), self._neighbours.view.placed, room_bytes, 1)

    @property
    def _free_bytes(self) -> int:
        return self._cache.capacity_bytes - self._cache.used_bytes

    async def _warm(self, now: Placement, members: Sequence[Member], room_bytes: int, at_once: int) -> None:
        lists = await self._neighbours.resident_lists(_ASK_S)
        then = self._placing.place(settled(members))
        wanted = await asyncio.to_thread(to_warm, lists, now, then, self._neighbours.me, room_bytes)
        with contextlib.suppress(OverloadedError):
            await for_each(wanted, self._load, at_once)

    async def _load(self, held: Held) -> None:
        try:
            await self._residency.take_over(held.version, held.ref)
            self._loaded += 1
        except OverloadedError:
            raise
        except Exception as error:
            _log.warning("%s, which others have in memory, can't be loaded: %s", held.ref, failure_of(error).message)
