"""What this scorer saw of rollouts, in numbers that add up over scorers. Pure.

Invariant: at most `CAPACITY` rollouts are held, the least recently used leave first. One takes 1 to 3 KB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Container, Iterable
from math import isfinite

from registry.model import ModelVersion, Rollout
from scorer.score_histogram import bucket

CAPACITY = 20_000


class Buckets:
    """How many scores fell into each bucket. Numbers in sorted arrays take a tenth of a dict."""

    __slots__ = ("_counts", "_places")

    def __init__(self) -> None:
        self._places = array("h")
        self._counts = array("Q")

    def add(self, score: float) -> None:
        """Count a score."""
        place = bucket(score)
        at = bisect_left(self._places, place)
        if at == len(self._places) or self._places[at] != place:
            self._places.insert(at, place)
            self._counts.insert(at, 0)
        self._counts[at] += 1

    def counts(self) -> dict[int, int]:
        """The number of a bucket to the scores in it."""
        return dict(zip(self._places, self._counts, strict=True))


class ArmTally:
    """Of the alias's version, or of the canary. `score_sum`, `score_count`: of the finite scores; `buckets`: of all."""

    __slots__ = ("buckets", "errors", "requests", "score_count", "score_sum")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.score_sum = 0.0
        self.score_count = 0
        self.buckets = Buckets()

    def scored(self, scores: Iterable[float]) -> None:
        """Count a request that was answered with these scores."""
        self.requests += 1
        for score in scores:
            self.buckets.add(score)
            if isfinite(score):
                self.score_sum += score
                self.score_count += 1

    def failed(self) -> None:
        """Count a request that the version failed."""
        self.requests += 1
        self.errors += 1


class ShadowTally:
    """Of a shadow. `skipped`: requests that weren't repeated. `score_count`: of the scores that were compared."""

    __slots__ = ("abs_difference_max", "abs_difference_sum", "errors", "requests", "score_count", "skipped")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.skipped = 0
        self.abs_difference_sum = 0.0
        self.abs_difference_max = 0.0
        self.score_count = 0

    def compared(self, total: float, largest: float, count: int) -> None:
        """Count a request whose scores differ by so much in sum and at most."""
        self.requests += 1
        self.abs_difference_sum += total
        self.abs_difference_max = max(self.abs_difference_max, largest)
        self.score_count += count

    def failed(self) -> None:
        """Count a request that the shadow failed."""
        self.requests += 1
        self.errors += 1


class RolloutTally:
    """Of one rollout. `turns`: requests without an entity key so far. `tenant`, `packages`: whose models they are."""

    __slots__ = ("canary", "packages", "shadow", "stable", "tenant", "turns")

    def __init__(self, tenant: str = "", packages: tuple[str, ...] = ()) -> None:
        self.tenant = tenant
        self.packages = packages
        self.stable = ArmTally()
        self.canary = ArmTally()
        self.shadow = ShadowTally()
        self.turns = 0


class Tallies:
    """The tallies by the rollout's id."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, RolloutTally] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, version: ModelVersion, rollout: Rollout) -> RolloutTally:
        """The tally of the rollout beside a version, a new one where it isn't held."""
        tally = self._held.get(rollout.id)
        if tally is None:
            beside = [each for each in (version, rollout.canary, rollout.shadow) if each is not None]
            tally = RolloutTally(version.tenant, tuple(each.package for each in beside))
            self._held[rollout.id] = tally
            if len(self._held) > CAPACITY:
                self._held.popitem(last=False)
        else:
            self._held.move_to_end(rollout.id)
        return tally

    def find(self, rollout_id: str) -> RolloutTally | None:
        """The tally of a rollout, None where it isn't held."""
        return self._held.get(rollout_id)

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Drop what was seen of a tenant's models, and of these packages."""
        for rollout_id, tally in list(self._held.items()):
            if tally.tenant == tenant or any(package in packages for package in tally.packages):
                del self._held[rollout_id]
