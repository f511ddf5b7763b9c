"""What `scoremesh load` shows on a terminal: how it goes, and at the end the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from ops.load.gates import Gate
from ops.load.percentiles import QUANTILES, GroupFigures
from ops.load.report import Report, latency_lines
from ops.load.sending import Progress
from ops.load.spec import LoadSpec
from ops.show import table

_HEADS = ("", "seconds", "sent", "answered", "a second", "failed", "waiting", "p50 ms", "p99 ms", "left late ms")


class Screen:
    """The line of figures that is drawn anew twice a second; rates and latencies are those of the last half second, of
    several processes those of the slowest one.
    """

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        self._last_s, self._last_answered, self._rate = 0.0, 0, 0.0

    def draw(self, seen: Sequence[Progress]) -> Table:
        """`seen`: the last word of each process."""
        at_s = max(each.at_s for each in seen)
        sent, answered, failed = (sum(getattr(each, name) for each in seen) for name in ("sent", "answered", "failed"))
        if at_s > self._last_s + 0.25:
            self._rate = (answered - self._last_answered) / (at_s - self._last_s)
            self._last_s, self._last_answered = at_s, answered
        p50_ms, p99_ms, late_ms = (
            max(getattr(each, name) for each in seen) for name in ("p50_ms", "p99_ms", "late_ms")
        )
        row = [
            "warm-up" if at_s < self._spec.warm_up_s else "measured" if at_s < self._spec.total_s else "last answers",
            f"{max(at_s, 0.0):.1f} of {self._spec.total_s:g}",
            f"{sent:,}",
            f"{answered:,}",
            f"{self._rate:,.0f}",
            f"{failed:,}",
            f"{sent - answered - failed:,}",
            *(f"{ms:.2f}" for ms in (p50_ms, p99_ms, late_ms)),
        ]
        return table(_HEADS, [row])


def latency_table(report: Report) -> Table:
    """Percentiles of each class, by where the model was."""
    heads = ["class", "model was", "requests", *(f"p{q * 100:g} ms" for q in QUANTILES), "max ms"]
    lines = [
        [name, kind, latency.requests, *(round(ms, 3) for ms in latency.quantiles_ms), round(latency.max_ms, 3)]
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    return table(heads, lines)


def summary(report: Report, checked: Sequence[Gate]) -> Iterator[str]:
    """What stands below the table, line by line."""
    for group in report.groups:
        yield _said_of_group(group, report.spec.duration_s)
    for status, text in report.examples.items():
        yield f"  {status}: {text}"
    if not math.isnan(report.cpu_us):
        yield f"CPU of the servers: {report.cpu_us:.1f} us a request"
    yield _said_of_generator(report)
    for each in checked:
        yield f"{each.text}: {each.value:.6g}, {'kept' if each.is_met else 'BROKEN'}"


def _said_of_group(group: GroupFigures, duration_s: float) -> str:
    errors = ", ".join(f"{name} {count:,}" for name, count in group.errors.items()) or "none"
    hits = "" if math.isnan(group.hit_rate) else f", {group.hit_rate:.2%} found their model in memory"
    return (
        f"{group.name}: {group.requests:,} requests, {group.all.requests / duration_s:,.1f} answered a second, "
        f"errors: {errors}{hits}"
    )


def _said_of_generator(report: Report) -> str:
    late_ms = report.lateness.quantiles_ms[3] if report.lateness.requests else math.nan
    text = (
        f"the generator can send {report.limit_per_s:,.0f} requests a second; 99 % left within {late_ms:.3f} ms, at "
        f"{report.generator_cpu_us:.0f} us of CPU each"
    )
    if report.limited_by_generator:
        return f"LIMITED BY THE GENERATOR: {report.limited_by_generator} ({text})"
    return text
