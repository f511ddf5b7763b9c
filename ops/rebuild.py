"""The command `rebuild`: etcd's index made anew from object storage."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from ops.connection import parse_ref
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import model_name, typed_ref
from ops.show import console
from registry.model import check_name
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub


@takes_target
def rebuild(
    target: Target,
    scope: Annotated[str, typer.Argument(metavar="[TENANT[/MODEL]]", help="Only this tenant or model.")] = "",
) -> None:
    """Bring etcd to what object storage says, as after etcd lost its data or a publisher died half-way."""
    request = pb.RebuildRequest(name=_scope_name(scope))

    async def work(stub: RegistryServiceStub) -> pb.RebuildResponse:
        return await _follow(stub, request)

    last = with_stub(target, work)
    typer.echo(
        f"{last.models} models in object storage: {last.written} entries written, {last.removed} removed, "
        f"{last.failed} failed, {last.elapsed_s:.1f} s"
    )
    if last.failed:
        raise typer.Exit(1)


async def _follow(stub: RegistryServiceStub, request: pb.RebuildRequest) -> pb.RebuildResponse:
    last = pb.RebuildResponse()
    screen = console()
    columns = (TextColumn("{task.fields[models]} models, {task.fields[written]} written"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("rebuild", total=None, models=0, written=0)
        async for last in stub.Rebuild(request):
            progress.update(task, models=last.models, written=last.written)
            if last.failure:
                screen.print(f"{typed_ref(last.model) if last.model else 'the index'}: {last.failure}")
    return last


def _scope_name(scope: str) -> str:
    if not scope:
        return ""
    return model_name(parse_ref(scope)) if "/" in scope else f"tenants/{check_name('tenant', scope)}"
