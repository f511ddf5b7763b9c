"""The commands `placement ...`: how models are placed in the whole cluster.

Routers and scorers must agree on it, so it's one record in etcd that all of them follow.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, with_etcd
from ops.known_tenants import placement_record
from ops.show import OutputFormat, OutputOption, show_rows
from registry.errors import ConflictError
from registry.etcd import Etcd
from registry.keys import Keys, encode
from registry.model import PlacementRecord

app = typer.Typer(
    help="How models are placed: replicas, size of a shard, when places are refilled.", no_args_is_help=True
)
_COLUMNS = ["replicas", "shard_size", "refill_after_s"]


@app.command()
def show(
    etcd: EtcdOption = DEFAULT_ETCD, cluster: ClusterOption = DEFAULT_CLUSTER, output: OutputOption = OutputFormat.TABLE
) -> None:
    """Show how models are placed."""
    _show(with_etcd(etcd, cluster, placement_record)[0], output)


@app.command("set")
def put(
    replicas: Annotated[int | None, typer.Option(min=1, help="Members that own a model.")] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=0, help="Members of a tenant that has no size of its own; 0: all.")
    ] = None,
    refill_after_s: Annotated[
        float | None, typer.Option(min=0, help="How long the places of a dead member stay empty.")
    ] = None,
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Change what is given; the rest stays. Models move: at once, in every router and scorer."""
    given = {"replicas": replicas, "shard_size": shard_size, "refill_after_s": refill_after_s}
    wanted = {name: value for name, value in given.items() if value is not None}

    async def work(client: Etcd, keys: Keys) -> PlacementRecord:
        held, revision = await placement_record(client, keys)
        record = msgspec.structs.replace(held, **wanted)
        if not (await client.compare_and_swap(keys.placement, encode(record), revision)).succeeded:
            raise ConflictError("somebody else changed it at the same time; look, and run it again")
        return record

    _show(with_etcd(etcd, cluster, work), output)


def _show(record: PlacementRecord, output: OutputFormat) -> None:
    show_rows([msgspec.structs.asdict(record)], _COLUMNS, output, "")
