"""The commands `quarantine ...`: packages that no scorer may load."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ops.models import RequestIdOption
from ops.pages import list_all
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import last_part
from ops.show import OutputFormat, OutputOption, show_rows
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

app = typer.Typer(help="Packages that crashed scorers: list them, lift the ban.", no_args_is_help=True)


@app.command()
@takes_target
def ls(
    target: Target,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the packages that no scorer may load."""
    packages = list_all(target, lambda stub: stub.ListQuarantine, pb.ListQuarantineRequest(), "packages")
    show_rows(
        [_row(package) for package in packages],
        ["package", "version", "since", "until", "by", "reason"],
        output,
        "nothing is in quarantine",
        prose="reason",
    )


@app.command()
@takes_target
def lift(
    target: Target,
    package: Annotated[str, typer.Argument(help="The package, as `quarantine ls` shows it.")],
    request_id: RequestIdOption = "",
) -> None:
    """Let scorers load a package again."""

    async def work(stub: RegistryServiceStub) -> None:
        await stub.LiftQuarantine(pb.LiftQuarantineRequest(name=f"quarantine/{package}", request_id=request_id))

    with_stub(target, work)
    typer.echo(f"package {package} may be loaded again")


def _row(package: pb.QuarantinedPackage) -> dict[str, Any]:
    return {
        "package": last_part(package.name),
        "version": package.version or "-",
        "reason": package.reason,
        "since": package.create_time,
        "until": package.expire_time or "-",
        "by": package.by,
    }
