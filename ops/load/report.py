"""The result of a run as one value, and the lines of its table. Pure.

A run was limited by its generator, and says nothing of the server, when requests left late (p99 over `LATE_MS` and over
a tenth of the p99 latency), a sending process had no rest, or the wanted rate was over `_NEAR` of what the processes
can do.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from ops.load.outcomes import LoadRun
from ops.load.percentiles import GroupFigures, Latency, Moment, figures, latency_of, moments, status_name
from ops.load.spec import LoadSpec

LATE_MS = 2.0
_BUSY = 0.9
_NEAR = 0.7


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run's result. `lateness`: of sending. `generator_cpu_us`: of the sending processes, a request.
    `limited_by_generator`: why, "" where it wasn't. `cpu_us`: of the servers, a request; NaN where it isn't known.
    `examples`: what servers said with a failure, by status. `models`: how many could be asked for.
    """

    spec: LoadSpec
    groups: list[GroupFigures]
    moments: list[Moment]
    lateness: Latency
    busiest: float
    generator_cpu_us: float
    limit_per_s: float
    limited_by_generator: str
    cpu_us: float
    models: int
    examples: dict[str, str]
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
        generator_cpu_us=run.cpu_us,
        limit_per_s=run.limit_per_s,
        limited_by_generator=_limited(run, groups[0], lateness),
        cpu_us=run.server_cpu_s * 1e6 / max(1, len(measured)),
        models=len(spec.models),
        examples={status_name(status): text for status, text in sorted(run.examples.items())},
        machine=machine,
        at=at,
    )


def _limited(run: LoadRun, group: GroupFigures, lateness: Latency) -> str:
    late_ms = lateness.quantiles_ms[3] if lateness.requests else 0.0
    p99_ms = group.all.quantiles_ms[3] if group.all.requests else 0.0
    if late_ms > max(LATE_MS, p99_ms / 10):
        return f"1 % of the requests left {late_ms:.1f} ms late or more"
    if run.busiest > _BUSY:
        return f"a sending process took {run.busiest:.0%} of a processor"
    if group.rate > _NEAR * run.limit_per_s:
        return f"{group.rate:,.0f} requests a second are near the {run.limit_per_s:,.0f} that it can send"
    return ""


def latency_lines(report: Report) -> Iterator[tuple[str, str, Latency]]:
    """A line of the table: class, where the model was, latency."""
    for group in report.groups:
        yield group.name, "any", group.all
        if len(group.residency) > 1 or "not told" not in group.residency:
            for kind, latency in group.residency.items():
                yield group.name, kind, latency
