"""A model in memory or about to be, as its eviction sees it. Pure."""

from __future__ import annotations

from math import inf
from typing import Generic, TypeVar

from scorer.eviction.shares import Share

V = TypeVar("V")


class Entry(Generic[V]):
    """`value`: what was loaded, None while it's only reserved and when it has left. `demand`: requests, in the scale of
    `scorer.eviction.demand`. `us_per_byte`: what it takes to load it again, for each byte it takes. `loaded_at`: a
    time in seconds, infinite until it's loaded.
    """

    __slots__ = ("demand", "key", "loaded_at", "nbytes", "pins", "share", "us_per_byte", "value")

    def __init__(self, key: str, nbytes: int, share: Share, demand: float) -> None:
        self.key, self.nbytes, self.share, self.demand = key, nbytes, share, demand
        self.value: V | None = None
        self.pins = 0
        self.us_per_byte = 0.0
        self.loaded_at = inf

    @property
    def worth(self) -> float:
        """What is lost when it leaves, for each byte that it frees: the reloads to be expected, in microseconds."""
        return self.demand * self.us_per_byte
