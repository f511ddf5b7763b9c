"""A report as one HTML page that needs nothing else: figures, plots, and how the run was made. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from ops.load.percentiles import QUANTILES, Latency, Moment
from ops.load.plot import Series, plot
from ops.load.report import Gate, Report, latency_lines

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
body{color:#0f172a;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem .25rem 0;text-align:right}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}th{border-bottom:1px solid #94a3b8}
svg{width:100%;height:auto;margin:.5rem 0}svg text{font-size:11px;fill:#334155}
svg .title{font-size:13px;font-weight:600}
svg .grid{stroke:#e2e8f0}svg polyline,svg line{stroke-width:1.5}.bad{color:#b91c1c;font-weight:600}.good{color:#047857}
code{white-space:pre-wrap;word-break:break-word}
"""


def page(report: Report, checked: Sequence[Gate], command: str) -> str:
    """The page. `command`: what was typed."""
    spec = report.spec
    what = (
        f"{spec.rate:,.0f} requests a second for {spec.duration_s:g} s after {spec.warm_up_s:g} s of warm-up;"
        f" target {spec.target.value}. {report.at}. {report.machine}"
    )
    parts = [
        f"<h1>Load on {escape(', '.join(spec.addresses))}</h1><p>{escape(what)}</p>",
        _limited(report),
        _gates(checked),
        _latencies(report),
        _errors(report),
        *_plots(report),
        f"<h2>How it was made</h2><p><code>{escape(command)}</code></p>{_generator(report)}",
    ]
    head = f"<meta charset=utf-8><title>scoremesh load</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _limited(report: Report) -> str:
    if not report.limited_by_generator:
        return ""
    return f"<p class=bad>Limited by the generator, not by the server: {escape(report.limited_by_generator)}.</p>"


def _gates(checked: Sequence[Gate]) -> str:
    lines = [
        f"<li class={'good' if each.is_met else 'bad'}>{each.name.replace('_', ' ')} {each.bound:g}:"
        f" {each.value:.4g}, {'met' if each.is_met else 'missed'}</li>"
        for each in checked
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _latencies(report: Report) -> str:
    heads = ["class", "model was", "requests", *(f"p{q * 100:g} ms" for q in QUANTILES), "max ms", "mean ms"]
    rows = [
        [name, kind, f"{latency.requests:,}", *(f"{ms:.3f}" for ms in _all_ms(latency))]
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    return f"<h2>Latency, from when a request was due</h2>{_table(heads, rows)}"


def _all_ms(latency: Latency) -> tuple[float, ...]:
    return (*latency.quantiles_ms, latency.max_ms, latency.mean_ms)


def _errors(report: Report) -> str:
    heads = ["class", "errors", "requests", "answered a second", "failed", "hit rate"]
    rows = [
        [
            group.name,
            ", ".join(f"{name} {count:,}" for name, count in group.errors.items()) or "none",
            f"{group.requests:,}",
            f"{group.all.requests / report.spec.duration_s:,.1f}",
            f"{group.error_rate:.4%}",
            "not told" if math.isnan(group.hit_rate) else f"{group.hit_rate:.3%}",
        ]
        for group in report.groups
    ]
    return f"<h2>Requests</h2>{_table(heads, rows)}"


def _plots(report: Report) -> Iterable[str]:
    nines = [-math.log10(1 - quantile) for quantile in QUANTILES]
    lines = [
        Series(f"{name}, {kind}", nines, latency.quantiles_ms)
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    yield "<h2>Plots</h2>"
    yield plot("Latency by quantile (1: p90, 2: p99, 3: p99.9)", "nines", "ms", lines, log_y=True)
    seen: Sequence[Moment] = report.moments
    at = [each.at_s for each in seen]
    over = [Series("p50", at, [each.p50_ms for each in seen]), Series("p99", at, [each.p99_ms for each in seen])]
    yield plot("Latency over time", "seconds", "ms", over, log_y=True)
    counts = [
        Series("requests", at, [float(each.requests) for each in seen]),
        Series("errors", at, [float(each.errors) for each in seen]),
    ]
    yield plot("Requests and errors a second", "seconds", "", counts)
    if not all(math.isnan(each.hit_rate) for each in seen):
        yield plot(
            "Share of models that were in memory",
            "seconds",
            "",
            [Series("hit rate", at, [each.hit_rate for each in seen])],
        )


def _generator(report: Report) -> str:
    late = report.lateness.quantiles_ms
    cpu = "" if math.isnan(report.cpu_us) else f" The servers took {report.cpu_us:.1f} us of CPU a request."
    return (
        f"<p>The generator can send {report.limit_per_s:,.0f} requests a second to a server that answers at once."
        f" Half of the requests left within {late[0]:.3f} ms of when they were due, 99 % within {late[3]:.3f} ms;"
        f" the busiest sending process took {report.busiest:.0%} of a processor.{cpu}</p>"
        if late
        else ""
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{''.join(lines)}</table>"
