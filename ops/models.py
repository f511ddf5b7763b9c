"""The commands about published models: ls, describe, alias, rollback, retire, delete."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import typer
from google.protobuf.json_format import MessageToDict

from ops.connection import ModelArgument
from ops.pages import list_all
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import VersionArgument, last_part, model_name, typed_ref
from ops.show import OutputFormat, OutputOption, console, mib, show_json, show_rows, table
from registry.model import LIVE
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

RequestIdOption = Annotated[
    str, typer.Option("--request-id", metavar="ID", help="Repeat a command with the same one: it is done once.")
]


@takes_target
def ls(
    target: Target,
    tenant: Annotated[str, typer.Argument(help="Only this tenant's models.")] = "-",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the published models, with their aliases."""
    models = list_all(target, lambda stub: stub.ListModels, pb.ListModelsRequest(parent=f"tenants/{tenant}"), "models")
    show_rows(
        [_listed(model) for model in models], ["model", "aliases", "rollouts", "application"], output, "no models"
    )


def _listed(model: pb.Model) -> dict[str, Any]:
    return {
        "model": typed_ref(model.name),
        "aliases": dict(sorted(model.aliases.items())),
        "rollouts": {rollout.alias: rollout.canary or rollout.shadow for rollout in model.rollouts},
        "application": model.application or "-",
    }


@takes_target
def describe(
    target: Target,
    model: ModelArgument,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a model's aliases, rollouts, versions, features and outputs."""

    async def work(stub: RegistryServiceStub) -> pb.Model:
        answer: pb.GetModelResponse = await stub.GetModel(pb.GetModelRequest(name=model_name(model)))
        return answer.model

    found = with_stub(target, work)
    if output is OutputFormat.JSON:
        show_json(MessageToDict(found, preserving_proto_field_name=True))
    else:
        _show_description(found)


def _show_description(found: pb.Model) -> None:
    aliases = ", ".join(f"{alias} -> {version}" for alias, version in sorted(found.aliases.items()))
    of = f", of application {found.application}" if found.application else ""
    typer.echo(f"{typed_ref(found.name)}: {aliases or 'no alias'} (revision {found.etag}{of})")
    for rollout in found.rollouts:
        typer.echo(f"beside {rollout.alias}: {rollout_text(rollout)}")
    typer.echo("")
    columns = ["version", "state", "runtime", "features", "outputs", "file MiB", "memory MiB", "us a row", "published"]
    console().print(table([*columns, "by"], [_version_cells(version) for version in found.versions]))


def rollout_text(rollout: pb.Rollout) -> str:
    """What runs, for a person."""
    parts = [f"canary {rollout.canary} at {rollout.percent:g} %"] if rollout.canary else []
    parts += [f"shadow {rollout.shadow}"] if rollout.shadow else []
    return f"{', '.join(parts)} (rollout {rollout.id}{', guarded' if rollout.guarded else ''})"


def _version_cells(version: pb.Version) -> list[Any]:
    schema = version.schema
    is_shown = version.HasField("schema")
    return [
        last_part(version.name),
        pb.VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower(),
        version.runtime or "-",
        len(schema.features) + len(schema.string_columns) if is_shown else "-",
        ", ".join(f"{output.name}: {output.kind}" for output in schema.outputs) or "-",
        mib(version.artifact_bytes),
        mib(version.resident_bytes),
        round(version.predict_us.get("1", 0.0), 1),
        version.create_time.partition(".")[0],
        version.published_by or "-",
    ]


class Assignment(NamedTuple):
    """Which version an alias is to point at."""

    alias: str
    version: str


def _parse_assignment(text: str) -> Assignment:
    alias, equals, version = text.partition("=")
    if not (alias and equals):
        raise typer.BadParameter("write ALIAS=VERSION, or ALIAS= to take the alias away")
    return Assignment(alias, version)


@takes_target
def alias(
    target: Target,
    model: ModelArgument,
    assignment: Annotated[
        Assignment,
        typer.Argument(parser=_parse_assignment, metavar="ALIAS=VERSION", help="Such as live=3; old= takes it away."),
    ],
    expected: Annotated[
        str, typer.Option(metavar="VERSION", help='Only if it points there until now; "-" for one that must be new.')
    ] = "",
    unprepared: Annotated[
        bool, typer.Option("--unprepared", help="Don't load it first: requests may be cold.")
    ] = False,
    request_id: RequestIdOption = "",
) -> None:
    """Point an alias at a version, when scorers that have the old one have loaded the new one."""

    async def work(stub: RegistryServiceStub) -> None:
        name = model_name(model)
        if not assignment.version:
            await stub.RemoveAlias(pb.RemoveAliasRequest(model=name, alias=assignment.alias, request_id=request_id))
            return
        request = pb.SetAliasRequest(
            model=name,
            alias=assignment.alias,
            version=assignment.version,
            expected_version=expected,
            unprepared=unprepared,
            request_id=request_id,
        )
        await stub.SetAlias(request)

    with_stub(target, work)
    typer.echo(f"{model}: {assignment.alias} -> {assignment.version or 'nothing'}")


@takes_target
def rollback(
    target: Target,
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="[ALIAS]", help="Which alias.")] = LIVE,
    request_id: RequestIdOption = "",
) -> None:
    """Point an alias back at the version that it meant before its last move."""

    async def work(stub: RegistryServiceStub) -> pb.Model:
        request = pb.RollBackAliasRequest(model=model_name(model), alias=name, request_id=request_id)
        answer: pb.RollBackAliasResponse = await stub.RollBackAlias(request)
        return answer.model

    found = with_stub(target, work)
    typer.echo(f"{model}: {name} -> {found.aliases[name]}")


@takes_target
def retire(
    target: Target,
    version: VersionArgument,
) -> None:
    """Take a version out of use for ever; refused while something points at it."""
    _check_has_version(version.version)

    async def work(stub: RegistryServiceStub) -> None:
        await stub.RetireVersion(pb.RetireVersionRequest(name=version.name))

    with_stub(target, work)
    typer.echo(f"{version} is retired")


@takes_target
def delete(
    target: Target,
    version: VersionArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Delete a whole model even while aliases point at it.")
    ] = False,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Delete a version, or without @VERSION a model; shows what was removed."""

    async def work(stub: RegistryServiceStub) -> pb.Removed:
        if version.version:
            one = pb.DeleteVersionRequest(name=version.name, request_id=request_id)
            answer: pb.DeleteVersionResponse = await stub.DeleteVersion(one)
            return answer.removed
        whole = pb.DeleteModelRequest(name=version.name, force=force, request_id=request_id)
        gone: pb.DeleteModelResponse = await stub.DeleteModel(whole)
        return gone.removed

    show_removed(str(version), with_stub(target, work), output)


def show_removed(what: str, removed: pb.Removed, output: OutputFormat) -> None:
    """Print what a deletion took away."""
    if output is OutputFormat.JSON:
        show_json(MessageToDict(removed, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return
    typer.echo(
        f"deleted {what}: {removed.models} models, {removed.versions} versions, {removed.objects} objects "
        f"({mib(removed.object_bytes):g} MiB), {removed.index_entries} entries of etcd, "
        f"{removed.resident_models} copies in memory, {removed.disk_files} on scorers' disks"
    )
    for member in removed.unreached_members:
        typer.echo(
            f"scorer {member} did not answer: run it again when it does, or delete its cache directory", err=True
        )


def _check_has_version(version: str) -> None:
    if not version:
        raise typer.BadParameter("write TENANT/MODEL@VERSION")
