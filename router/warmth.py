"""Which members have which models in memory, as their answers told. Pure.

Contract: `is_warm` is true only where that member answered for that model within `ttl_s`, and hasn't been forgotten
since. It may be wrong, as a member evicts without a word; so it's good for hedges, which it costs a load, and for
nothing that must be right. Memory is bounded: of more than `most_models` the ones that were learnt longest ago go, and
there are never more than twice as many.

Two generations: what is learnt goes to the young one; when that is full it becomes the old one, and the old one goes.
"""

from __future__ import annotations

from math import inf

ModelKey = tuple[str, str]


class Warmth:
    """`ttl_s`: how long an answer is believed. `most_models`: models in a generation."""

    def __init__(self, *, ttl_s: float = 60.0, most_models: int = 50_000) -> None:
        self._ttl_s, self._most_models = ttl_s, most_models
        self._young: dict[ModelKey, dict[str, float]] = {}
        self._old: dict[ModelKey, dict[str, float]] = {}

    def learn(self, model: ModelKey, member_id: str, now: float) -> None:
        """The member has the model: it answered for it."""
        known = self._young.get(model)
        if known is None:
            known = self._renew(model)
        known[member_id] = now

    def forget(self, model: ModelKey, member_id: str) -> None:
        """The member may not have the model: it didn't answer for it, or refused to load it."""
        for generation in (self._young, self._old):
            generation.get(model, {}).pop(member_id, None)

    def is_warm(self, model: ModelKey, member_id: str, now: float) -> bool:
        """Whether it's worth asking this member for this model."""
        known = self._young.get(model) or self._old.get(model)
        return known is not None and now - known.get(member_id, -inf) <= self._ttl_s

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def _renew(self, model: ModelKey) -> dict[str, float]:
        known = self._old.pop(model, {})
        if len(self._young) >= self._most_models:
            self._old, self._young = self._young, {}
        self._young[model] = known
        return known
