"""Figures of a run, from what became of its requests. Pure.

Percentiles are of all finished requests of a group, by nearest rank, without interpolation: p99 is a latency that
somebody saw. They count from when a request was due. Requests that failed are counted apart, and so are those that were
never answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from ops.load.outcomes import UNFINISHED, Outcomes
from registry.failure import Code

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
RESIDENCIES = {0: "not told", 1: "warm", 2: "disk", 3: "cold"}


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds. `quantiles_ms`: of `QUANTILES`, in their order; empty where there was no request."""

    requests: int
    quantiles_ms: tuple[float, ...] = ()
    max_ms: float = 0.0
    mean_ms: float = 0.0


class GroupFigures(msgspec.Struct, frozen=True):
    """Of one class of tenants. `residency`: latency by where the model was. `errors`: requests by gRPC status.
    `hit_rate`: of those answered that told where the model was; NaN where none did.
    """

    name: str
    requests: int
    rate: float
    all: Latency
    residency: dict[str, Latency]
    errors: dict[str, int]
    hit_rate: float

    @property
    def error_rate(self) -> float:
        """Share of all requests that weren't answered well."""
        return sum(self.errors.values()) / self.requests if self.requests else 0.0


class Moment(msgspec.Struct, frozen=True):
    """One second of the run. Latencies of the requests that were due in it."""

    at_s: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float
    hit_rate: float


def figures(outcomes: Outcomes, names: Sequence[str], duration_s: float) -> list[GroupFigures]:
    """Of all requests, and of each class where there are several. `names`: of the classes."""
    found = [_figures("all", outcomes, duration_s)]
    if len(names) > 1:
        found += [
            _figures(name, outcomes.select(outcomes.group == place), duration_s) for place, name in enumerate(names)
        ]
    return found


def moments(outcomes: Outcomes, from_s: float, until_s: float) -> list[Moment]:
    """Second by second."""
    edges = np.arange(from_s, until_s, 1.0).tolist()
    bounds = np.searchsorted(outcomes.due_s, [*edges, until_s])
    return [
        _moment(edge - from_s, outcomes.select(slice(start, end)))
        for edge, start, end in zip(edges, bounds[:-1], bounds[1:], strict=True)
    ]


def latency_of(latency_s: np.ndarray) -> Latency:
    """Of finished requests, in seconds."""
    if not len(latency_s):
        return Latency(0)
    sorted_ms = np.sort(latency_s) * 1000
    ranks = [nearest_rank(quantile, len(sorted_ms)) for quantile in QUANTILES]
    return Latency(len(sorted_ms), tuple(sorted_ms[ranks].tolist()), float(sorted_ms[-1]), float(sorted_ms.mean()))


def nearest_rank(quantile: float, count: int) -> int:
    """The place, among so many sorted numbers, of the smallest one that this share of them doesn't exceed."""
    return max(0, math.ceil(round(quantile * count, 6)) - 1)


def _figures(name: str, outcomes: Outcomes, duration_s: float) -> GroupFigures:
    good = outcomes.select(outcomes.status == 0)
    latency_s = good.latency_s
    kinds = {RESIDENCIES[kind]: latency_of(latency_s[good.residency == kind]) for kind in RESIDENCIES}
    return GroupFigures(
        name=name,
        requests=len(outcomes),
        rate=len(outcomes) / duration_s,
        all=latency_of(latency_s),
        residency={kind: latency for kind, latency in kinds.items() if latency.requests},
        errors=_errors(outcomes.status),
        hit_rate=_hit_rate(good.residency),
    )


def _errors(status: np.ndarray) -> dict[str, int]:
    codes, counts = np.unique(status[status != 0], return_counts=True)
    return {status_name(int(code)): int(count) for code, count in zip(codes, counts, strict=True)}


def status_name(code: int) -> str:
    """Of a gRPC status, or of a request that was never answered."""
    if code == UNFINISHED:
        return "UNFINISHED"
    return Code(code).name if code in set(Code) else f"status {code}"


def _hit_rate(residency: np.ndarray) -> float:
    told = residency[residency > 0]
    return float((told == 1).mean()) if len(told) else float("nan")


def _moment(at_s: float, outcomes: Outcomes) -> Moment:
    good = outcomes.select(outcomes.status == 0)
    latency = latency_of(good.latency_s)
    p50, p99 = (latency.quantiles_ms[0], latency.quantiles_ms[3]) if latency.requests else (float("nan"),) * 2
    return Moment(at_s, len(outcomes), len(outcomes) - len(good), p50, p99, _hit_rate(good.residency))
