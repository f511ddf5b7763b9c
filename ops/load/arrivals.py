"""When which model is asked for: drawn before the first request is sent, so that no answer can delay one. Pure.

Contract: `draw` gives what one of `spec.processes` sends. Calls of a class are a Poisson process; the processes send
independent parts of it, whose sum is the whole one again. The requests of one call of `spec.batch` come at one time. A
class that cycles goes through its models in order, each process every n-th of them. Popularity: the model of rank r
(from 1) is asked for in proportion to r to the power of -zipf; which model has which rank is drawn once, and changes
where the class churns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from ops.load.spec import LoadModel, LoadSpec, Pattern, RowShare, TenantClass


@dataclass(frozen=True)
class Arrivals:
    """Requests in order of time. `due_s`: after the begin of the warm-up, float64. `model`: place in `spec.models`,
    `rows`: of the request, `group`: place in `spec.classes`; int32.
    """

    due_s: np.ndarray
    model: np.ndarray
    rows: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.due_s)


def draw(spec: LoadSpec, process: int) -> Arrivals:
    """What one process sends. `process`: 0 to `spec.processes` - 1. Each class has at least one model."""
    parts = [_of_class(spec, number, process) for number in range(len(spec.classes))]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Arrivals(*(column[order] for column in columns))


def _of_class(spec: LoadSpec, number: int, process: int) -> tuple[np.ndarray, ...]:
    tenants = spec.classes[number]
    places = np.array([place for place, model in enumerate(spec.models) if belongs(model, tenants)], np.int32)
    random = np.random.default_rng([spec.seed, number, process])
    calls_s = poisson(tenants.rate / spec.processes / spec.batch, *_window(spec, tenants), random)
    due_s = np.repeat(calls_s, spec.batch)
    if tenants.pattern is Pattern.CYCLE:
        chosen = places[(np.arange(len(due_s)) * spec.processes + process) % len(places)]
    else:
        ranking = np.random.default_rng([spec.seed, number]).permutation(places)
        chosen = by_popularity(ranking, due_s, tenants, random)
    rows = pick_rows(spec.rows, len(due_s), random)
    return due_s, chosen.astype(np.int32), rows, np.full(len(due_s), number, np.int32)


def belongs(model: LoadModel, tenants: TenantClass) -> bool:
    """Whether a class asks for a model."""
    if tenants.tenants:
        return fnmatchcase(model.tenant, tenants.tenants)
    return model.group in ("", tenants.name)


def _window(spec: LoadSpec, tenants: TenantClass) -> tuple[float, float]:
    return tenants.from_s, min(tenants.until_s or spec.total_s, spec.total_s)


def poisson(rate: float, from_s: float, until_s: float, random: np.random.Generator) -> np.ndarray:
    """Times of a Poisson process, sorted. Given their number they are uniform and independent."""
    length_s = max(0.0, until_s - from_s)
    return np.sort(from_s + length_s * random.random(random.poisson(rate * length_s)))


def by_popularity(
    ranking: np.ndarray, due_s: np.ndarray, tenants: TenantClass, random: np.random.Generator
) -> np.ndarray:
    """The model of each request. `ranking`: the models, the most popular one first, at time 0."""
    weights = np.arange(1, len(ranking) + 1, dtype=np.float64) ** -tenants.zipf
    cumulated = np.cumsum(weights)
    ranks = np.searchsorted(cumulated, random.random(len(due_s)) * cumulated[-1], side="right")
    if not tenants.churn_s or not tenants.churn_models:
        return np.asarray(ranking[ranks])
    # A step of churn moves the whole ranking on: the least popular become the most popular, and all others lose ranks.
    moved = (due_s // tenants.churn_s).astype(np.int64) * tenants.churn_models
    return np.asarray(ranking[(ranks - moved) % len(ranking)])


def pick_rows(shares: Sequence[RowShare], count: int, random: np.random.Generator) -> np.ndarray:
    """How many rows each request has."""
    weights = np.array([each.share for each in shares], np.float64)
    picked = random.choice(len(shares), count, p=weights / weights.sum())
    return np.array([each.rows for each in shares], np.int32)[picked]
