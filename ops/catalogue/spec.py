"""What a catalogue has: which tenant, name and base each of its models has. Pure.

Contract: the same spec gives the same models, to the last byte. Tenants have models in proportion to their rank to the
power of -`skew`, and at least one each.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np

from registry.model import ModelRef


class TreeShare(msgspec.Struct, frozen=True):
    """So many of all tree models have so many trees."""

    trees: int
    share: float


class CatalogueSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """`models`, `tenants`: how many. `prefix`: what the tenants' names begin with. `bases`: how many are trained;
    `trees`: how large they are; `onnx_share`: how many of all models are ONNX graphs.
    """

    models: int
    tenants: int
    prefix: str = "load"
    skew: float = 0.8
    bases: int = 50
    trees: tuple[TreeShare, ...] = (TreeShare(10, 0.75), TreeShare(30, 0.2), TreeShare(100, 0.04), TreeShare(200, 0.01))
    onnx_share: float = 0.1
    seed: int = 1

    @cached_property
    def begins(self) -> np.ndarray:
        """Number of the first model of each tenant, and behind them `models`; int64."""
        weights = np.arange(1, self.tenants + 1, dtype=np.float64) ** -self.skew
        ends = np.floor(np.cumsum(weights) / weights.sum() * (self.models - self.tenants) + 1e-9).astype(np.int64)
        return np.concatenate([[0], ends + np.arange(1, self.tenants + 1)])

    def tenant(self, number: int) -> str:
        """The name of a tenant, counted from 0, the largest."""
        return f"{self.prefix}-{number:05d}"

    def ref(self, number: int) -> ModelRef:
        """The model of this number."""
        owner = int(np.searchsorted(self.begins, number, side="right")) - 1
        return ModelRef(self.tenant(owner), f"m{number:06d}")

    def choose_bases(self, weights: np.ndarray) -> np.ndarray:
        """The base of each model, drawn in proportion to the bases' weights; int32."""
        random = np.random.default_rng([self.seed, 0])
        return random.choice(len(weights), self.models, p=weights / weights.sum()).astype(np.int32)

    def random_of(self, number: int) -> np.random.Generator:
        """What makes the model of this number different from its base."""
        return np.random.default_rng([self.seed, 1, number])
