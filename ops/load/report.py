"""The result of a run as one value, the lines of its table, and what it must fulfil. Pure.

A run was limited by its generator, and says nothing of the server, when requests left late (p99 over `LATE_MS` and over
a tenth of the p99 latency), a sending process had no rest, or the wanted rate was over `_NEAR` of what the processes
can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from ops.load.generator import LoadRun
from ops.load.percentiles import QUANTILES, GroupFigures, Latency, Moment, figures, latency_of, moments
from ops.load.spec import LoadSpec

LATE_MS = 2.0
_BUSY = 0.9
_NEAR = 0.7


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run's result. `lateness`: of sending. `limited_by_generator`: why, "" where it wasn't. `cpu_us`: of the
    servers, a request; NaN where no server's process was named.
    """

    spec: LoadSpec
    groups: list[GroupFigures]
    moments: list[Moment]
    lateness: Latency
    busiest: float
    limit_per_s: float
    limited_by_generator: str
    cpu_us: float
    machine: str = ""
    at: str = ""

    @property
    def all(self) -> GroupFigures:
        """Of all requests."""
        return self.groups[0]


def make_report(spec: LoadSpec, run: LoadRun, *, machine: str, at: str) -> Report:
    """Figures of the measured time, without the warm-up."""
    outcomes = run.outcomes
    measured = outcomes.select((outcomes.due_s >= spec.warm_up_s) & (outcomes.due_s < spec.total_s))
    groups = figures(measured, [each.name for each in spec.classes], spec.duration_s)
    sent = measured.lateness_s
    lateness = latency_of(sent[~np.isnan(sent)])
    return Report(
        spec=msgspec.structs.replace(spec, models=spec.models[:3]),  # The others would be most of the report.
        groups=groups,
        moments=moments(measured, spec.warm_up_s, spec.total_s),
        lateness=lateness,
        busiest=run.busiest,
        limit_per_s=run.limit_per_s * spec.processes,
        limited_by_generator=_limited(spec, run, groups[0].all, lateness),
        cpu_us=run.server_cpu_s * 1e6 / max(1, len(measured)),
        machine=machine,
        at=at,
    )


def _limited(spec: LoadSpec, run: LoadRun, latency: Latency, lateness: Latency) -> str:
    late_ms = lateness.quantiles_ms[3] if lateness.requests else 0.0
    p99_ms = latency.quantiles_ms[3] if latency.requests else 0.0
    if late_ms > max(LATE_MS, p99_ms / 10):
        return f"1 % of the requests left {late_ms:.1f} ms late or more"
    if run.busiest > _BUSY:
        return f"a sending process took {run.busiest:.0%} of a processor"
    if run.limit_per_s and spec.rate > _NEAR * run.limit_per_s * spec.processes:
        return (
            f"{spec.rate:,.0f} requests a second are near the {run.limit_per_s * spec.processes:,.0f} that it can send"
        )
    return ""


class Gate(NamedTuple):
    """A bound that a run must keep. `value`: what it was; `is_met`: NaN never is."""

    name: str
    bound: float
    value: float
    is_met: bool


class Bounds(NamedTuple):
    """None for no bound. Of all requests, or of the class `of` where one is named."""

    max_p50_ms: float | None = None
    max_p99_ms: float | None = None
    max_p999_ms: float | None = None
    max_error_rate: float | None = None
    min_hit_rate: float | None = None
    min_rate: float | None = None
    max_cpu_us: float | None = None
    of: str = ""


def gates(report: Report, bounds: Bounds) -> list[Gate]:
    """Each bound, and what it was. Raises KeyError: there is no such class."""
    group = {each.name: each for each in report.groups}[bounds.of or "all"]
    quantiles = group.all.quantiles_ms or (float("nan"),) * len(QUANTILES)
    good = group.all.requests / report.spec.duration_s
    values = {
        "max_p50_ms": quantiles[0],
        "max_p99_ms": quantiles[3],
        "max_p999_ms": quantiles[4],
        "max_error_rate": group.error_rate if group.requests else float("nan"),
        "min_hit_rate": group.hit_rate,
        "min_rate": good,
        "max_cpu_us": report.cpu_us,
    }
    return [
        _gate(name, bound, values[name])
        for name, bound in bounds._asdict().items()
        if name != "of" and bound is not None
    ]


def _gate(name: str, bound: float, value: float) -> Gate:
    return Gate(name, bound, value, value <= bound if name.startswith("max") else value >= bound)


def latency_lines(report: Report) -> Iterator[tuple[str, str, Latency]]:
    """A line of the table: class, where the model was, latency."""
    for group in report.groups:
        yield group.name, "any", group.all
        if len(group.residency) > 1 or "not told" not in group.residency:
            for kind, latency in group.residency.items():
                yield group.name, kind, latency
