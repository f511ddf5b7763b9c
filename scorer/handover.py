"""What a scorer does for its models' next owners before it leaves: they load the hottest first, while it serves on."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from scorer.cache import ModelCache
from scorer.inheritance import Held, settled, to_hand_over
from scorer.neighbours import Neighbours
from scorer.placing import Placing

_MOST_MODELS = 10_000
_log = logging.getLogger(__name__)


async def hand_over(neighbours: Neighbours, cache: ModelCache, placing: Placing, limit_s: float) -> None:
    """Have the members that will be asked for what is in memory here load it. Returns when all have what they have
    room for, after `limit_s` at the latest; then they load on what they were asked for.
    """
    began = monotonic()
    others = neighbours.others
    held = [Held(ref, version, demand) for version, ref, demand in cache.hottest(_MOST_MODELS) if ref is not None]
    then = placing.place(settled(member for member in neighbours.view.placed if member.id != neighbours.me))
    handed = await asyncio.to_thread(to_hand_over, held, then)  # takes some microseconds a model
    giving = [
        asyncio.create_task(neighbours.give(others[member], models, limit_s))
        for member, models in handed.items()
        if member in others
    ]
    if not giving:
        return
    try:
        done, _late = await asyncio.wait(giving, timeout=limit_s)
        given = sum(task.result() for task in done)
    finally:
        for task in giving:
            task.cancel()
        await asyncio.gather(*giving, return_exceptions=True)
    took_s = monotonic() - began
    _log.info("handed over: %d models here, %d copies at %d members, %.1f s", len(held), given, len(giving), took_s)
