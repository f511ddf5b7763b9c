"""The commands `rollout ...`: a canary or a shadow beside an alias, and many models at once."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops.connection import ModelArgument
from ops.models import RequestIdOption, rollout_text
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import model_name, typed_ref
from ops.show import OutputFormat, OutputOption, console, show_json, table
from registry.model import LIVE
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

app = typer.Typer(help="Bring versions into use step by step: canary, shadow, many models.", no_args_is_help=True)
AliasOption = Annotated[str, typer.Option("--alias", help="Beside which alias.")]


@app.command()
@takes_target
def start(
    target: Target,
    model: ModelArgument,
    canary: Annotated[str, typer.Option(metavar="VERSION", help="Answers a share of the entities instead.")] = "",
    percent: Annotated[float, typer.Option(min=0, max=100, help="The canary's share.")] = 5.0,
    shadow: Annotated[str, typer.Option(metavar="VERSION", help="Scores what the alias scores, answers nobody.")] = "",
    alias: AliasOption = LIVE,
    guarded: Annotated[bool, typer.Option("--guard/--no-guard", help="Take it back when it fails or drifts.")] = True,
    max_error_ratio: Annotated[
        float, typer.Option(help="More failed requests than the alias's version, share.")
    ] = 0.01,
    max_drift: Annotated[float, typer.Option(help="Population stability index of the scores.")] = 0.25,
    min_requests: Annotated[int, typer.Option(help="No judgement before so many.")] = 200,
    request_id: RequestIdOption = "",
) -> None:
    """Start a canary, a shadow or both; again with another --percent to change the share."""
    if not (canary or shadow):
        raise typer.BadParameter("give --canary or --shadow")
    rollout = pb.Rollout(
        alias=alias,
        canary=canary,
        percent=percent if canary else 0.0,
        shadow=shadow,
        guarded=guarded,
        max_error_ratio=max_error_ratio,
        max_drift=max_drift,
        min_requests=min_requests,
    )

    async def work(stub: RegistryServiceStub) -> pb.Model:
        request = pb.StartRolloutRequest(model=model_name(model), rollout=rollout, request_id=request_id)
        answer: pb.StartRolloutResponse = await stub.StartRollout(request)
        return answer.model

    found = with_stub(target, work)
    [running] = [each for each in found.rollouts if each.alias == alias]
    typer.echo(f"{model}: beside {alias} -> {found.aliases[alias]} runs {rollout_text(running)}")


@app.command()
@takes_target
def status(
    target: Target,
    model: ModelArgument,
    alias: AliasOption = LIVE,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show what scorers saw of a rollout, and what the guard says."""

    async def work(stub: RegistryServiceStub) -> pb.Rollout:
        answer: pb.GetRolloutResponse = await stub.GetRollout(
            pb.GetRolloutRequest(model=model_name(model), alias=alias)
        )
        return answer.rollout

    found = with_stub(target, work)
    if output is OutputFormat.JSON:
        show_json(MessageToDict(found, preserving_proto_field_name=True))
        return
    typer.echo(f"{model}: beside {alias} runs {rollout_text(found)}: {found.verdict or 'not judged'}")
    arms = [("alias's version", found.stable_stats), *([("canary", found.canary_stats)] if found.canary else [])]
    console().print(table(["arm", "requests", "errors", "mean score", "drift"], [_arm_cells(*arm) for arm in arms]))
    if found.shadow:
        seen = found.shadow_stats
        typer.echo(
            f"shadow: {seen.requests} requests, {seen.errors} errors, {seen.skipped} skipped, scores differ by "
            f"{seen.mean_abs_difference:.6g} on average, {seen.max_abs_difference:.6g} at most"
        )


def _arm_cells(name: str, arm: pb.ArmStats) -> list[Any]:
    return [name, arm.requests, arm.errors, arm.mean_score, arm.drift]


@app.command()
@takes_target
def promote(
    target: Target,
    model: ModelArgument,
    alias: AliasOption = LIVE,
    request_id: RequestIdOption = "",
) -> None:
    """The canary (or shadow) becomes the alias's version."""
    _end(target, model, alias, request_id, promote=True)


@app.command()
@takes_target
def abort(
    target: Target,
    model: ModelArgument,
    alias: AliasOption = LIVE,
    request_id: RequestIdOption = "",
) -> None:
    """Take the canary (or shadow) back."""
    _end(target, model, alias, request_id, promote=False)


def _end(target: Target, model: Any, alias: str, request_id: str, *, promote: bool) -> None:
    async def work(stub: RegistryServiceStub) -> pb.Model:
        request = pb.EndRolloutRequest(model=model_name(model), alias=alias, promote=promote, request_id=request_id)
        answer: pb.EndRolloutResponse = await stub.EndRollout(request)
        return answer.model

    found = with_stub(target, work)
    typer.echo(f"{model}: {alias} -> {found.aliases[alias]}, nothing beside it")


@app.command()
@takes_target
def bulk(
    target: Target,
    application: Annotated[str, typer.Option(help="Only models of this application.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant's models.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Versions with this label.")] = None,
    training: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Versions of this training.")] = None,
    alias: AliasOption = LIVE,
    version: Annotated[str, typer.Option(help="To this version; default: the newest that matches.")] = "",
    stages: Annotated[str, typer.Option(help="Percentages of the models.")] = "1,10,50,100",
    pause_s: Annotated[float, typer.Option(min=0, help="Seconds between two stages.")] = 0.0,
    max_failed_ratio: Annotated[float, typer.Option(min=0, max=1, help="Stop at more failures in a stage.")] = 0.01,
    resume: Annotated[str, typer.Option(metavar="ID", help="Go on with this one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Move an alias of many models to a version each, stage by stage; interrupted, it goes on with --resume ID."""
    request = pb.RolloutBulkRequest(
        application=application,
        tenant=tenant,
        labels=label or [],
        training=training or [],
        alias=alias,
        version=version,
        stages=parse_stages(stages),
        pause_s=pause_s,
        max_failed_ratio=max_failed_ratio,
        bulk_id=resume,
        dry_run=dry_run,
    )

    async def work(stub: RegistryServiceStub) -> pb.RolloutBulkResponse:
        return await _follow(stub, request)

    last = with_stub(target, work)
    what = "would move" if dry_run else "moved"
    typer.echo(f"bulk rollout {last.bulk_id}: {what} {last.done} of {last.total} models, {last.failed} failed")
    if last.failed or (last.done < last.total and not dry_run):
        typer.echo(f"go on with: scoremesh rollout bulk --resume {last.bulk_id}", err=True)
        raise typer.Exit(1)


async def _follow(stub: RegistryServiceStub, request: pb.RolloutBulkRequest) -> pb.RolloutBulkResponse:
    last = pb.RolloutBulkResponse()
    columns = (TextColumn("stage {task.fields[stage]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("models", total=None, stage=0)
        async for last in stub.RolloutBulk(request):
            progress.update(task, completed=last.done, total=last.total, stage=last.stage)
            if last.failure:
                screen.print(f"{typed_ref(last.model)}: {last.failure}")
            elif request.dry_run and last.model:
                screen.print(typed_ref(last.model))
    return last


def parse_stages(text: str) -> list[float]:
    """Ascending percentages, "1,10,100"."""
    try:
        stages = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter("write --stages 1,10,50,100") from error
    if stages != sorted(set(stages)) or not all(0 < stage <= 100 and math.isfinite(stage) for stage in stages):
        raise typer.BadParameter("--stages must be ascending percentages, over 0 and up to 100")
    return stages
