"""The command `load`: sends traffic, shows how it goes, tells what was measured, and checks bounds.

Exit status: 0 done; 1 it couldn't be done; 3 a bound wasn't kept, or the run was limited by the generator and
`--strict` asked to hear of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.live import Live
from rich.text import Text

from ops.connection import split_endpoints
from ops.load.generator import generate
from ops.load.options import parse_class, parse_model, parse_rows, read_models
from ops.load.page import page
from ops.load.percentiles import QUANTILES
from ops.load.report import Bounds, Gate, Report, gates, latency_lines, make_report
from ops.load.sending import Progress
from ops.load.spec import LoadSpec, Target, TenantClass
from ops.show import OutputFormat, OutputOption, console, show_json, table
from registry.errors import InvalidRequestError

BOUND_BROKEN = 3
_Bound = Annotated[float | None, typer.Option(rich_help_panel="Bounds (status 3 where one isn't kept)")]


def load(
    target: Annotated[Target, typer.Option(help="What to call.")] = Target.SCORE,
    router: Annotated[
        str, typer.Option("--router", envvar="SCOREMESH_ROUTER", metavar="HOST:PORT,...", help="The servers.")
    ] = "127.0.0.1:7100",
    models: Annotated[Path | None, typer.Option(help="JSON lines: tenant, model, features, group.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="TENANT/MODEL:FEATURES", help="Models.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second, where no --class says more.")] = 100.0,
    zipf: Annotated[float, typer.Option(min=0.0, help="Exponent of the popularity of models.")] = 1.0,
    tenant_class: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME,rate=R,...", help="Tenants that behave alike; zipf, pattern=cycle, ..."),
    ] = None,
    duration_s: Annotated[float, typer.Option(min=0.1, help="Seconds that are measured.")] = 10.0,
    warm_up_s: Annotated[float, typer.Option(min=0.0, help="Seconds before that.")] = 2.0,
    deadline_s: Annotated[float, typer.Option(min=0.001, help="Of each request, from when it was due.")] = 5.0,
    rows: Annotated[str, typer.Option(metavar="ROWS:SHARE,...", help="Rows of a request.")] = "1",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Requests in a call of --target batch.")] = 16,
    trace: Annotated[Path | None, typer.Option(help="Replay these arrivals: seconds,tenant,model,rows.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="That send.")] = 1,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="Of each process to each server.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    server_pid: Annotated[list[int] | None, typer.Option(help="Processes whose CPU time is counted.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with plots there.")] = None,
    strict: Annotated[bool, typer.Option(help="A run that its generator limited fails.")] = False,
    max_p50_ms: _Bound = None,
    max_p99_ms: _Bound = None,
    max_p999_ms: _Bound = None,
    max_error_rate: _Bound = None,
    min_hit_rate: _Bound = None,
    min_rate: _Bound = None,
    max_cpu_us: _Bound = None,
    bounds_of: Annotated[str, typer.Option(help="The class that the bounds are for.")] = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Send traffic that doesn't wait for answers, and tell what callers would have seen."""
    spec = LoadSpec(
        target=target,
        addresses=tuple(split_endpoints(router)),
        models=read_models(models) if models else tuple(map(parse_model, model or ())),
        classes=tuple(map(parse_class, tenant_class or ())) or (TenantClass(name="all", rate=rate, zipf=zipf),),
        rows=parse_rows(rows),
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        deadline_s=deadline_s,
        batch=batch if target is Target.BATCH else 1,
        connections=connections,
        processes=processes,
        seed=seed,
        trace=str(trace.resolve()) if trace else "",
    )
    bounds = Bounds(max_p50_ms, max_p99_ms, max_p999_ms, max_error_rate, min_hit_rate, min_rate, max_cpu_us, bounds_of)
    _check(spec, bounds)
    with Live(console=console(), transient=True, auto_refresh=False) as live:
        run = asyncio.run(generate(spec, server_pid or [], lambda seen: live.update(_line(spec, seen), refresh=True)))
    report = make_report(spec, run, machine=machine(), at=datetime.now(UTC).isoformat(timespec="seconds"))
    checked = gates(report, bounds)
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if html_file:
        html_file.write_text(page(report, checked, shlex.join(["scoremesh", *sys.argv[1:]])), encoding="utf-8")
    if output is OutputFormat.JSON:
        show_json(report)
    else:
        show(report, checked)
    if not all(each.is_met for each in checked) or (strict and report.limited_by_generator):
        raise typer.Exit(BOUND_BROKEN)


def _check(spec: LoadSpec, bounds: Bounds) -> None:
    if not spec.models:
        raise typer.BadParameter("name models with --models or --model")
    names = [each.name for each in spec.classes]
    for each in spec.classes:
        if not any(model.group in ("", each.name) for model in spec.models):
            raise InvalidRequestError(f"there is no model of class {each.name!r}")
    if bounds.of not in ("", "all", *names):
        raise typer.BadParameter(f"--bounds-of: there is no class {bounds.of!r}")


def machine() -> str:
    """What this machine is, in a line."""
    return f"{os.cpu_count()} cores {platform.machine()}, {platform.system()} {platform.release()}"


def _line(spec: LoadSpec, seen: list[Progress]) -> Text:
    at_s = max(each.at_s for each in seen)
    sent, unfinished = sum(each.sent for each in seen), sum(each.unfinished for each in seen)
    phase = "warm-up" if at_s < spec.warm_up_s else "measured"
    late_ms = max(each.late_ms for each in seen)
    return Text(
        f"{max(at_s, 0.0):6.1f} of {spec.total_s:g} s  {phase:8}  {sent:,} sent, {unfinished:,} not yet answered,"
        f" {late_ms:.1f} ms late"
    )


def show(report: Report, checked: list[Gate]) -> None:
    """Print tables."""
    heads = ["class", "model was", "requests", *(f"p{q * 100:g} ms" for q in QUANTILES), "max ms"]
    lines = [
        [name, kind, latency.requests, *(round(ms, 3) for ms in latency.quantiles_ms), round(latency.max_ms, 3)]
        for name, kind, latency in latency_lines(report)
        if latency.requests
    ]
    console().print(table(heads, lines))
    typer.echo("")
    for group in report.groups:
        errors = ", ".join(f"{name} {count:,}" for name, count in group.errors.items()) or "none"
        hits = "" if math.isnan(group.hit_rate) else f", {group.hit_rate:.2%} found their model in memory"
        typer.echo(
            f"{group.name}: {group.requests:,} requests, {group.all.requests / report.spec.duration_s:,.1f} answered a"
            f" second, errors: {errors}{hits}"
        )
    if not math.isnan(report.cpu_us):
        typer.echo(f"CPU of the servers: {report.cpu_us:.1f} us a request")
    typer.echo(_said_of_generator(report))
    for each in checked:
        typer.echo(
            f"{each.name.replace('_', ' ')} {each.bound:g}: {each.value:.6g}, {'met' if each.is_met else 'MISSED'}"
        )


def _said_of_generator(report: Report) -> str:
    late_ms = report.lateness.quantiles_ms[3] if report.lateness.requests else 0.0
    text = f"the generator can send {report.limit_per_s:,.0f} requests a second; 99 % left within {late_ms:.3f} ms"
    if report.limited_by_generator:
        return f"LIMITED BY THE GENERATOR: {report.limited_by_generator} ({text})"
    return text
