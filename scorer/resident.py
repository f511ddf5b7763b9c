"""A model in memory, and what it cost to bring it there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from registry.model import ModelSchema, ModelVersion
from scorer.cost_curve import UNKNOWN, CostCurve
from scorer.engine import LoadedModel

_log = logging.getLogger(__name__)


class Resident(NamedTuple):
    """A loaded model, and how it came in. `residency`: the value of scoremesh.scoring.v1.Residency for the request that
    had to wait for it. `tenant`, `queue_us` (from when it was asked for until its load began) and `loaded_at` (a time
    of the event loop) are filled in by the cache. `costs`: what its predictions take.
    """

    model: LoadedModel
    schema: ModelSchema
    nbytes: int
    residency: int
    fetch_us: int
    load_us: int
    tenant: str = ""
    verify_us: int = 0
    queue_us: int = 0
    version: ModelVersion | None = None
    loaded_at: float = 0.0
    costs: CostCurve = UNKNOWN

    @property
    def cost_us(self) -> int:
        """What it takes to bring it in again."""
        return self.fetch_us + self.verify_us + self.load_us


def close_models(models: Iterable[LoadedModel]) -> None:
    """Close each; one that can't be closed is lost memory, and no reason to keep the others."""
    for model in models:
        try:
            model.close()
        except Exception:
            _log.exception("can't close a model")


Load = Callable[[ModelVersion], Awaitable[Resident]]


@dataclass
class Counts:
    """Since the start. `loads`, `failures`: loads begun, and those that failed; `evictions`: models that left to make
    room or since they were purged; `upgraded`: background loads that a request has joined; `parked`, `no_room`: how
    often a load waited for room, and gave up; `refused`: requests that were told at once that their load fails, comes
    too late or has too many before it. Microseconds of all loads that succeeded: `queue_us`, `fetch_us`, `verify_us`,
    `load_us`.
    """

    loads: int = 0
    failures: int = 0
    evictions: int = 0
    upgraded: int = 0
    parked: int = 0
    no_room: int = 0
    refused: int = 0
    queue_us: int = 0
    fetch_us: int = 0
    verify_us: int = 0
    load_us: int = 0
