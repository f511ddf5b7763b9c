"""The commands `application ...`: set, show, ls, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.json_format import MessageToDict, Parse, ParseError

from client.errors import error_of_call
from ops.connection import parse_ref
from ops.models import RequestIdOption
from ops.pages import list_all
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import VersionRef, last_part, model_name, parse_version_ref, typed_ref
from ops.show import OutputFormat, OutputOption, show_json, show_rows
from registry.errors import InvalidRequestError
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

app = typer.Typer(help="Applications: the contract of their models, and the shared model.", no_args_is_help=True)
ApplicationArgument = Annotated[str, typer.Argument(metavar="APPLICATION", help="The application.")]


@app.command("set")
@takes_target
def set_(
    target: Target,
    application: ApplicationArgument,
    shared: Annotated[str, typer.Option(metavar="TENANT/MODEL", help="Answers for tenants without a model.")] = "",
    contract: Annotated[Path | None, typer.Option(help="A JSON file with the schema that its models keep to.")] = None,
    contract_of: Annotated[
        VersionRef | None,
        typer.Option(parser=parse_version_ref, metavar="TENANT/MODEL@VERSION", help="Take its schema."),
    ] = None,
    pool: Annotated[str, typer.Option(help="The scorers that run its models.")] = "",
    allow_breaking: Annotated[
        bool, typer.Option("--allow-breaking", help="The contract may break the old one.")
    ] = False,
    check_models: Annotated[
        bool, typer.Option("--check-models", help="Tell which of its models break the contract; looks at all models.")
    ] = False,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Create an application, or change what is given of it."""

    async def work(stub: RegistryServiceStub) -> pb.SetApplicationResponse:
        wanted = await _held(stub, application)
        if shared:
            wanted.shared_model = model_name(parse_ref(shared))
        if pool:
            wanted.pool = pool
        if contract is not None:
            wanted.contract.CopyFrom(read_schema(contract))
        elif contract_of is not None:
            version = (await stub.GetVersion(pb.GetVersionRequest(name=contract_of.name))).version
            wanted.contract.CopyFrom(version.schema)
        request = pb.SetApplicationRequest(
            application=wanted, allow_breaking=allow_breaking, request_id=request_id, check_models=check_models
        )
        answer: pb.SetApplicationResponse = await stub.SetApplication(request)
        return answer

    answer = with_stub(target, work)
    _show([answer.application], output)
    for model in answer.breaking_models:
        typer.echo(f"the live version of {typed_ref(model)} breaks the contract", err=True)


async def _held(stub: RegistryServiceStub, application: str) -> pb.Application:
    name = f"applications/{application}"
    try:
        answer: pb.GetApplicationResponse = await stub.GetApplication(pb.GetApplicationRequest(name=name))
    except grpc.RpcError as error:
        if error_of_call(error).code is not grpc.StatusCode.NOT_FOUND:
            raise
        return pb.Application(name=name)
    return answer.application


def read_schema(path: Path) -> pb.Schema:
    """The schema in a JSON file, in protobuf's JSON form. Raises InvalidRequestError."""
    try:
        return Parse(path.read_text(), pb.Schema())
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror}") from error
    except (ParseError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} is not a schema in JSON: {error}") from error


@app.command()
@takes_target
def show(
    target: Target,
    application: ApplicationArgument,
) -> None:
    """Show an application with its contract, as JSON."""

    async def work(stub: RegistryServiceStub) -> pb.Application:
        request = pb.GetApplicationRequest(name=f"applications/{application}")
        answer: pb.GetApplicationResponse = await stub.GetApplication(request)
        return answer.application

    found = with_stub(target, work)
    show_json(MessageToDict(found, preserving_proto_field_name=True))


@app.command()
@takes_target
def ls(
    target: Target,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the applications."""
    _show(list_all(target, lambda stub: stub.ListApplications, pb.ListApplicationsRequest(), "applications"), output)


@app.command()
@takes_target
def delete(
    target: Target,
    application: ApplicationArgument,
    request_id: RequestIdOption = "",
) -> None:
    """Delete an application; its models stay, without a contract and without the fallback."""

    async def work(stub: RegistryServiceStub) -> None:
        name = f"applications/{application}"
        await stub.DeleteApplication(pb.DeleteApplicationRequest(name=name, request_id=request_id))

    with_stub(target, work)
    typer.echo(f"deleted application {application}")


def _show(applications: list[pb.Application], output: OutputFormat) -> None:
    columns = ["application", "shared_model", "pool", "contract_features"]
    show_rows([_row(application) for application in applications], columns, output, "no applications")


def _row(application: pb.Application) -> dict[str, Any]:
    return {
        "application": last_part(application.name),
        "shared_model": typed_ref(application.shared_model) if application.shared_model else "-",
        "pool": application.pool or "-",
        "contract_features": len(application.contract.features) if application.HasField("contract") else "-",
    }
