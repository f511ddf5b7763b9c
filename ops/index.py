"""The command `index`: what etcd has, which is what scorers know."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, with_etcd
from ops.show import OutputFormat, OutputOption, mib, show_rows
from registry.etcd import Etcd, KeyValue
from registry.keys import Keys, decode_model
from registry.model import ModelRecord, check_name


def index(
    tenant: Annotated[str, typer.Argument(help="Only this tenant's models.")] = "",
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the models that scorers know: the index in etcd, which `rebuild` makes anew from object storage."""

    async def work(client: Etcd, keys: Keys) -> list[dict[str, Any]]:
        prefix = keys.models_prefix + (f"{check_name('tenant', tenant)}/".encode() if tenant else b"")
        return [_listed(kv, keys) for kv in (await client.list_prefix(prefix)).kvs]

    rows = with_etcd(etcd, cluster, work)
    show_rows(rows, ["model", "aliases", "runtime", "memory_mib"], output, "no models")


def _listed(kv: KeyValue, keys: Keys) -> dict[str, Any]:
    """One line; an entry that somebody else damaged is shown as such and stops nothing."""
    name = kv.key.removeprefix(keys.models_prefix).decode(errors="replace")
    try:
        record = decode_model(kv.value)
    except msgspec.DecodeError:
        record = ModelRecord(0, {})
        name += " (damaged entry: run `scoremesh rebuild`)"
    versions = record.aliases.values()
    return {
        "model": name,
        "aliases": {alias: version.version for alias, version in sorted(record.aliases.items())},
        "runtime": ",".join(sorted({version.runtime.value for version in versions})) or "-",
        "memory_mib": mib(max((version.resident_bytes for version in versions), default=0)),
    }
