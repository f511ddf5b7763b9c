"""A report as one HTML page that needs nothing else: figures, plots, and how the run was made. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ops.load.gates import Gate
from ops.load.percentiles import QUANTILES, GroupFigures, Latency, Moment
from ops.load.plot import Series, fixed, plot
from ops.load.report import Report, latency_lines

_LIGHT = (
    "--ink:#0f172a;--soft:#475569;--paper:#fff;--card:#f8fafc;--line:#cbd5e1;--bad:#b91c1c;--good:#047857;"
    "--c0:#1d4ed8;--c1:#c2410c;--c2:#047857;--c3:#a21caf;--c4:#b45309;--c5:#0e7490;--c6:#be123c;--c7:#4d7c0f"
)
_DARK = (
    "--ink:#e2e8f0;--soft:#94a3b8;--paper:#0f172a;--card:#1e293b;--line:#334155;--bad:#fca5a5;--good:#6ee7b7;"
    "--c0:#7aa2ff;--c1:#fdba74;--c2:#6ee7b7;--c3:#f0abfc;--c4:#fcd34d;--c5:#67e8f9;--c6:#fda4af;--c7:#bef264"
)
_STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}
body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1.25rem}}
body{{color:var(--ink);background:var(--paper)}}
h1{{font-size:1.5rem;margin:0}}h2{{font-size:1.1rem;margin:2rem 0 .5rem}}.soft{{color:var(--soft)}}
.tiles{{display:flex;flex-wrap:wrap;gap:.75rem;margin:1.25rem 0}}
.tiles div{{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem;min-width:7rem}}
.tiles b{{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}}
.scroll{{overflow-x:auto}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}}
td,th{{padding:.3rem .7rem .3rem 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}}
td.text,th.text{{text-align:left}}th{{color:var(--soft);font-weight:600}}
.bad{{color:var(--bad);font-weight:600}}.good{{color:var(--good)}}
code{{white-space:pre-wrap;word-break:break-word;display:block;background:var(--card);padding:.6rem .9rem}}
svg{{width:100%;height:auto;margin:1rem 0}}svg text{{font-size:12px;fill:var(--soft)}}
svg .title{{font-size:14px;font-weight:600;fill:var(--ink)}}
svg line,svg polyline{{stroke-width:1.75;fill:none}}svg .grid{{stroke:var(--line);stroke-width:1}}
{"".join(f".c{number}{{stroke:var(--c{number})}}circle.c{number}{{fill:var(--c{number})}}" for number in range(8))}
"""


def page(report: Report, checked: Sequence[Gate], command: str) -> str:
    """The page. `command`: what was typed."""
    spec = report.spec
    what = (
        f"target {spec.target.value}, {report.models:,} models, {report.all.rate:,.0f} requests a second for "
        f"{spec.duration_s:,.6g} s after {spec.warm_up_s:g} s of warm-up. {report.at}. {report.machine}"
    )
    parts = [
        f"<h1>Load on {escape(', '.join(spec.addresses))}</h1><p class=soft>{escape(what)}</p>",
        _limited(report),
        _gates(checked),
        _tiles(report),
        _latencies(report),
        _requests(report),
        *_plots(report),
        f"<h2>How it was made</h2><code>{escape(command)}</code>{_generator(report)}",
    ]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>scoremesh load</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _limited(report: Report) -> str:
    if not report.limited_by_generator:
        return ""
    return f"<p class=bad>Limited by the generator, not by the server: {escape(report.limited_by_generator)}.</p>"


def _gates(checked: Sequence[Gate]) -> str:
    lines = [
        f"<li class={'good' if each.is_met else 'bad'}>{escape(each.text)}: {each.value:.4g},"
        f" {'kept' if each.is_met else 'broken'}</li>"
        for each in checked
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _tiles(report: Report) -> str:
    group = report.all
    quantiles = group.all.quantiles_ms
    told = {
        "answered a second": f"{group.all.requests / report.spec.duration_s:,.0f}",
        "failed": f"{group.error_rate:.3%}",
        "p50": f"{quantiles[0]:.2f} ms" if quantiles else "",
        "p99": f"{quantiles[3]:.2f} ms" if quantiles else "",
        "p99.9": f"{quantiles[4]:.2f} ms" if quantiles else "",
        "hit rate": "" if math.isnan(group.hit_rate) else f"{group.hit_rate:.2%}",
        "server CPU a request": "" if math.isnan(report.cpu_us) else f"{report.cpu_us:.1f} us",
    }
    tiles = [f"<div><b>{figure}</b><span class=soft>{name}</span></div>" for name, figure in told.items() if figure]
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _latencies(report: Report) -> str:
    heads = ["class", "model was", "requests", *(f"p{q * 100:g} ms" for q in QUANTILES), "max ms", "mean ms"]
    rows = [
        [name, kind, f"{latency.requests:,}", *(f"{ms:,.3f}" for ms in _all_ms(latency))]
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    return f"<h2>Latency, from when a request was due</h2>{_table(heads, rows)}"


def _all_ms(latency: Latency) -> tuple[float, ...]:
    return (*latency.quantiles_ms, latency.max_ms, latency.mean_ms)


def _requests(report: Report) -> str:
    heads = ["class", "errors", "requests", "answered a second", "failed", "hit rate"]
    rows = [_request_cells(group, report.spec.duration_s) for group in report.groups]
    said = [f"<p class=soft>{escape(status)}: {escape(text)}</p>" for status, text in report.examples.items()]
    return f"<h2>Requests</h2>{_table(heads, rows)}{''.join(said)}"


def _request_cells(group: GroupFigures, duration_s: float) -> list[str]:
    return [
        group.name,
        ", ".join(f"{name} {count:,}" for name, count in group.errors.items()) or "none",
        f"{group.requests:,}",
        f"{group.all.requests / duration_s:,.1f}",
        f"{group.error_rate:.4%}",
        "not told" if math.isnan(group.hit_rate) else f"{group.hit_rate:.3%}",
    ]


def _plots(report: Report) -> Iterator[str]:
    nines = [-math.log10(1 - quantile) for quantile in QUANTILES]
    ticks = [(nine, f"p{quantile * 100:g}") for nine, quantile in zip(nines, QUANTILES, strict=True)]
    lines = [
        Series(f"{name}, {kind}" if len(report.groups) > 1 else kind, nines, latency.quantiles_ms)
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    yield "<h2>Plots</h2>"
    yield plot("Latency by percentile", "", "ms", lines, log_y=True, x_axis=fixed(ticks))
    seen: Sequence[Moment] = report.moments
    at = [each.at_s for each in seen]
    over = [Series("p50", at, [each.p50_ms for each in seen]), Series("p99", at, [each.p99_ms for each in seen])]
    yield plot("Latency of the requests that were due in each second", "seconds", "ms", over, log_y=True)
    counts = [
        Series("requests", at, [float(each.requests) for each in seen]),
        Series("failed", at, [float(each.errors) for each in seen]),
    ]
    yield plot("Requests a second", "seconds", "", counts)
    if not all(math.isnan(each.hit_rate) for each in seen):
        percents = [Series("hit rate", at, [each.hit_rate * 100 for each in seen])]
        axis = fixed([(float(tick), str(tick)) for tick in range(0, 101, 20)])
        yield plot("Requests that found their model in memory", "seconds", "%", percents, y_axis=axis)


def _generator(report: Report) -> str:
    late = report.lateness.quantiles_ms
    if not late:
        return "<p>No request was sent.</p>"
    return (
        f"<p>The generator can send {report.limit_per_s:,.0f} such requests a second to a server that answers at once."
        f" Half of the requests left within {late[0]:.3f} ms of when they were due, 99 % within {late[3]:.3f} ms, at"
        f" {report.generator_cpu_us:.0f} us of CPU each; the busiest sending process took {report.busiest:.0%} of a"
        " processor.</p>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first two columns are text."""
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _row(tag: str, cells: Sequence[str]) -> str:
    made = [f"<{tag}{' class=text' if place < 2 else ''}>{escape(cell)}</{tag}>" for place, cell in enumerate(cells)]
    return f"<tr>{''.join(made)}</tr>"
