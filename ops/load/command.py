"""The command `load`: sends traffic, shows how it goes, tells what was measured, and checks bounds.

Exit status: 0 done; 1 it couldn't be done; 3 a bound wasn't kept, or the run was limited by the generator and
`--strict` asked to hear of it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from ops.connection import (
    DEFAULT_CLUSTER,
    DEFAULT_ETCD,
    ClusterOption,
    EtcdOption,
    StoreOption,
    split_endpoints,
    with_etcd,
)
from ops.load.discover import Found, discover
from ops.load.gates import gates, parse_bound
from ops.load.generator import generate
from ops.load.headers import parse_header
from ops.load.options import check_spec, parse_class, parse_model, parse_rows, read_models
from ops.load.outcomes import LoadRun
from ops.load.page import page
from ops.load.report import make_report
from ops.load.screen import Screen, latency_table, summary
from ops.load.sending import Progress
from ops.load.spec import LoadModel, LoadSpec, Oip, Target, TenantClass, Tls
from ops.load.trace import read_trace
from ops.show import OutputFormat, OutputOption, console, show_json
from registry.errors import InvalidRequestError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.library import Library
from registry.store_urls import open_store

BOUND_BROKEN = 3
_DURATION_S = 10.0
_MODELS, _TRAFFIC, _RESULT, _OIP = "Models", "Traffic", "Result", "Servers of the Open Inference Protocol"


class FloatType(StrEnum):
    """Of the tensor that an OIP request carries."""

    FP32 = "FP32"
    FP64 = "FP64"


def load(
    target: Annotated[Target, typer.Option(help="What to call.")] = Target.SCORE,
    router: Annotated[
        str, typer.Option("--router", envvar="SCOREMESH_ROUTER", metavar="HOST:PORT,...", help="The servers.")
    ] = "127.0.0.1:7100",
    tls_ca: Annotated[str, typer.Option(metavar="FILE", help="Speak TLS, and trust these certificates.")] = "",
    tls_cert: Annotated[str, typer.Option(metavar="FILE", help="Speak TLS, and show this certificate.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="The key of the certificate.")] = "",
    models: Annotated[
        Path | None, typer.Option(help="JSON lines: tenant, model, features, group.", rich_help_panel=_MODELS)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="TENANT/MODEL:FEATURES", help="Some models.", rich_help_panel=_MODELS),
    ] = None,
    tenant: Annotated[
        list[str] | None,
        typer.Option(help="The live models of these; where nothing is named, of all.", rich_help_panel=_MODELS),
    ] = None,
    etcd: EtcdOption = DEFAULT_ETCD,
    store: StoreOption = "",
    cluster: ClusterOption = DEFAULT_CLUSTER,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Requests a second, without --class.", rich_help_panel=_TRAFFIC)
    ] = 100.0,
    zipf: Annotated[
        float, typer.Option(min=0.0, help="Popularity: exponent, without --class.", rich_help_panel=_TRAFFIC)
    ] = 1.0,
    tenant_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME,rate=R,...",
            help="Tenants that behave alike: tenants=PATTERN, zipf, pattern=cycle, churn_s, churn_models, from_s...",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option(metavar="ROWS:SHARE,...", help="Rows of a request.", rich_help_panel=_TRAFFIC)
    ] = "1",
    trace: Annotated[
        Path | None, typer.Option(help="Replay these arrivals: seconds,tenant,model,rows.", rich_help_panel=_TRAFFIC)
    ] = None,
    duration_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Measured seconds; 10, or the whole trace.", rich_help_panel=_TRAFFIC),
    ] = None,
    warm_up_s: Annotated[float, typer.Option(min=0.0, help="Seconds before that.", rich_help_panel=_TRAFFIC)] = 2.0,
    deadline_s: Annotated[
        float, typer.Option(min=0.001, help="Of a request, from when it was due.", rich_help_panel=_TRAFFIC)
    ] = 5.0,
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Requests in a call of --target batch.", rich_help_panel=_TRAFFIC)
    ] = 16,
    processes: Annotated[int, typer.Option(min=1, max=64, help="That send.", rich_help_panel=_TRAFFIC)] = 1,
    connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Of each process to each server.", rich_help_panel=_TRAFFIC)
    ] = 1,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Goes with each call; {tenant} and {model} are filled in.",
            rich_help_panel=_TRAFFIC,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same requests.", rich_help_panel=_TRAFFIC)] = 1,
    oip_tensor: Annotated[str, typer.Option(help="Name of the input.", rich_help_panel=_OIP)] = "input-0",
    oip_datatype: Annotated[FloatType, typer.Option(help="Its type.", rich_help_panel=_OIP)] = FloatType.FP32,
    oip_version: Annotated[str, typer.Option(help="Of the models; their own choice.", rich_help_panel=_OIP)] = "",
    server_pid: Annotated[
        list[int] | None, typer.Option(help="Processes whose CPU time is counted.", rich_help_panel=_RESULT)
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOUND",
            help="Else status 3: p99_ms<=20, victims/p99_ms<=20, cold/p99_ms<=800, error_rate<=0, hit_rate>=0.9, ...",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Status 3 as well where the generator was the limit.", rich_help_panel=_RESULT)
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there.", rich_help_panel=_RESULT)
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with plots there.", rich_help_panel=_RESULT)
    ] = None,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Send traffic that doesn't wait for answers, and tell what callers would have seen."""
    classes = tuple(map(parse_class, tenant_class or ()))
    bounds = [parse_bound(text, [each.name for each in classes]) for text in require or ()]
    _check_writable(json_file, html_file)
    named = (*(read_models(models) if models else ()), *map(parse_model, model or ()))
    spec = LoadSpec(
        target=target,
        addresses=tuple(split_endpoints(router)),
        models=named or _of_cluster(etcd, store, cluster, tenant or ()),
        classes=classes or (TenantClass(name="all", rate=rate, zipf=zipf),),
        rows=parse_rows(rows),
        duration_s=duration_s or _DURATION_S,
        warm_up_s=warm_up_s,
        deadline_s=deadline_s,
        batch=batch if target is Target.BATCH else 1,
        connections=connections,
        processes=processes,
        seed=seed,
        trace=str(trace.resolve()) if trace else "",
        tls=Tls(tls_ca, tls_cert, tls_key) if tls_ca or tls_cert or tls_key else None,
        oip=Oip(oip_tensor, oip_datatype.value, oip_version),
        headers=tuple(map(parse_header, header or ())),
    )
    check_spec(spec)
    if spec.trace:
        spec = _as_long_as_its_trace(spec, duration_s)
    run = _run(spec, server_pid or ())
    report = make_report(spec, run, machine=machine(), at=datetime.now(UTC).isoformat(timespec="seconds"))
    checked = gates(report, bounds)
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    if html_file:
        html_file.write_text(page(report, checked, shlex.join(["scoremesh", *sys.argv[1:]])), encoding="utf-8")
    if output is OutputFormat.JSON:
        show_json(report)
    else:
        console().print(latency_table(report))
        typer.echo("\n" + "\n".join(summary(report, checked)))
    if not all(each.is_met for each in checked) or (strict and report.limited_by_generator):
        raise typer.Exit(BOUND_BROKEN)


def _run(spec: LoadSpec, server_pids: Sequence[int]) -> LoadRun:
    screen = console()
    drawn = Screen(spec)
    with Live(console=screen, transient=True, auto_refresh=False) as live:

        def show(seen: Sequence[Progress]) -> None:
            live.update(drawn.draw(seen), refresh=screen.is_terminal)

        return asyncio.run(generate(spec, server_pids, show))


def _of_cluster(etcd: str, store: str, cluster: str, tenants: Sequence[str]) -> tuple[LoadModel, ...]:
    if not store:
        raise InvalidRequestError(
            "name models with --models or --model; or, with --etcd and --store, the cluster that knows them"
        )
    library = Library(open_store(store))

    async def find(opened: Etcd, keys: Keys) -> Found:
        return await discover(opened, keys, library, tenants)

    found = with_etcd(etcd, cluster, find)
    if found.left_out:
        typer.echo(f"{found.left_out} models take texts and are left out", err=True)
    return found.models


def _as_long_as_its_trace(spec: LoadSpec, duration_s: float | None) -> LoadSpec:
    """Checks the trace before anything is sent."""
    whole = msgspec.structs.replace(spec, processes=1, duration_s=duration_s or float("inf"))
    arrivals = read_trace(whole, 0)
    length_s = float(arrivals.due_s[-1]) if len(arrivals) else 0.0
    if length_s <= spec.warm_up_s:
        raise InvalidRequestError(f"{spec.trace} ends before the warm-up does, after {length_s:g} s")
    return spec if duration_s else msgspec.structs.replace(spec, duration_s=length_s - spec.warm_up_s + 1e-6)


def _check_writable(*paths: Path | None) -> None:
    """Before the run, not after it."""
    for path in paths:
        try:
            if path is not None:
                path.open("ab").close()
        except OSError as error:
            raise InvalidRequestError(f"can't write {path}: {error.strerror}") from error


def machine() -> str:
    """What this machine is, in a line."""
    return f"{os.cpu_count()} cores {platform.machine()}, {platform.system()} {platform.release()}"
