"""The commands `tenant ...`: create, update, show, ls, delete."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from ops.models import RequestIdOption, show_removed
from ops.pages import list_all
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import last_part
from ops.show import OutputFormat, OutputOption, mib, show_rows
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

app = typer.Typer(help="Tenants: their quotas, shards and memory, and their deletion.", no_args_is_help=True)
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")]
ShardOption = Annotated[int | None, typer.Option("--shard-size", min=0, help="Members that its models may be on.")]
RateOption = Annotated[float | None, typer.Option("--requests-per-s", min=0, help="Over the whole cluster.")]
ConcurrencyOption = Annotated[int | None, typer.Option("--concurrency", min=0, help="Requests at the same time.")]
GuaranteedOption = Annotated[
    float | None, typer.Option("--guaranteed-mib", min=0, help="Memory of each scorer, its own.")
]
MaxOption = Annotated[float | None, typer.Option("--max-mib", min=0, help="Memory of each scorer, at most.")]
PremiumOption = Annotated[bool | None, typer.Option("--premium/--standard", help="A shard with little overlap.")]
PoolOption = Annotated[
    str | None, typer.Option("--dedicated-pool", help="The pool of scorers that is its alone; '' for none.")
]
HedgeOption = Annotated[
    bool | None, typer.Option("--hedge/--no-hedge", help="Slow requests also go to a second scorer that is warm.")
]
_COLUMNS = [
    "tenant",
    "shard_size",
    "requests_per_s",
    "concurrency",
    "guaranteed_mib",
    "max_mib",
    "premium",
    "dedicated_pool",
    "hedge",
]


@app.command()
@takes_target
def create(
    target: Target,
    tenant: TenantArgument,
    shard_size: ShardOption = None,
    requests_per_s: RateOption = None,
    concurrency: ConcurrencyOption = None,
    guaranteed_mib: GuaranteedOption = None,
    max_mib: MaxOption = None,
    premium: PremiumOption = None,
    dedicated_pool: PoolOption = None,
    hedge: HedgeOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Create a tenant's settings; 0 means the cluster's default, or no limit."""
    wanted = pb.Tenant(name=f"tenants/{tenant}")
    _apply(wanted, shard_size, requests_per_s, concurrency, guaranteed_mib, max_mib, premium, dedicated_pool, hedge)

    async def work(stub: RegistryServiceStub) -> pb.Tenant:
        request = pb.CreateTenantRequest(tenant=wanted, request_id=request_id)
        answer: pb.CreateTenantResponse = await stub.CreateTenant(request)
        return answer.tenant

    _show([with_stub(target, work)], output)


@app.command()
@takes_target
def update(
    target: Target,
    tenant: TenantArgument,
    shard_size: ShardOption = None,
    requests_per_s: RateOption = None,
    concurrency: ConcurrencyOption = None,
    guaranteed_mib: GuaranteedOption = None,
    max_mib: MaxOption = None,
    premium: PremiumOption = None,
    dedicated_pool: PoolOption = None,
    hedge: HedgeOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Change the settings that are given; the others stay."""

    async def work(stub: RegistryServiceStub) -> pb.Tenant:
        held = (await stub.GetTenant(pb.GetTenantRequest(name=f"tenants/{tenant}"))).tenant
        _apply(held, shard_size, requests_per_s, concurrency, guaranteed_mib, max_mib, premium, dedicated_pool, hedge)
        request = pb.UpdateTenantRequest(tenant=held, request_id=request_id)
        answer: pb.UpdateTenantResponse = await stub.UpdateTenant(request)
        return answer.tenant

    _show([with_stub(target, work)], output)


@app.command()
@takes_target
def show(
    target: Target,
    tenant: TenantArgument,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a tenant's settings."""

    async def work(stub: RegistryServiceStub) -> pb.Tenant:
        answer: pb.GetTenantResponse = await stub.GetTenant(pb.GetTenantRequest(name=f"tenants/{tenant}"))
        return answer.tenant

    _show([with_stub(target, work)], output)


@app.command()
@takes_target
def ls(
    target: Target,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the tenants."""
    _show(list_all(target, lambda stub: stub.ListTenants, pb.ListTenantsRequest(), "tenants"), output)


@app.command()
@takes_target
def delete(
    target: Target,
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Delete everything of a tenant, everywhere, and show what was removed."""
    if not yes:
        typer.confirm(f"Delete all models, artifacts and settings of tenant {tenant}?", abort=True)

    async def work(stub: RegistryServiceStub) -> pb.Removed:
        request = pb.DeleteTenantRequest(name=f"tenants/{tenant}", request_id=request_id)
        answer: pb.DeleteTenantResponse = await stub.DeleteTenant(request)
        return answer.removed

    removed = with_stub(target, work)
    show_removed(f"tenant {tenant}", removed, output)
    if removed.unreached_members:
        raise typer.Exit(1)


def _apply(
    tenant: pb.Tenant,
    shard_size: int | None,
    requests_per_s: float | None,
    concurrency: int | None,
    guaranteed_mib: float | None,
    max_mib: float | None,
    premium: bool | None,
    dedicated_pool: str | None,
    hedge: bool | None,
) -> None:
    given = {
        "shard_size": shard_size,
        "requests_per_s": requests_per_s,
        "concurrency": concurrency,
        "guaranteed_bytes": None if guaranteed_mib is None else int(guaranteed_mib * (1 << 20)),
        "max_bytes": None if max_mib is None else int(max_mib * (1 << 20)),
        "premium": premium,
        "dedicated_pool": dedicated_pool,
        "hedge": hedge,
    }
    for name, value in given.items():
        if value is not None:
            setattr(tenant, name, value)


def _show(tenants: list[pb.Tenant], output: OutputFormat) -> None:
    show_rows([_row(tenant) for tenant in tenants], _COLUMNS, output, "no tenants")


def _row(tenant: pb.Tenant) -> dict[str, Any]:
    fields = MessageToDict(tenant, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    del fields["name"]
    return {
        "tenant": last_part(tenant.name),
        **fields,
        "guaranteed_mib": mib(tenant.guaranteed_bytes),
        "max_mib": mib(tenant.max_bytes),
    }
