"""The commands about published models: publish, ls, describe, alias, sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from ops.connection import (
    DEFAULT_CLUSTER,
    DEFAULT_ETCD,
    ClusterOption,
    EtcdOption,
    ModelArgument,
    Registry,
    StoreOption,
    parse_ref,
    with_etcd,
    with_library,
    with_registry,
)
from ops.show import OutputFormat, OutputOption, console, mib, show_json, show_rows, table
from registry.etcd import Etcd, KeyValue
from registry.keys import Keys, decode_model
from registry.library import ModelDescription
from registry.manifest import Manifest
from registry.model import LIVE, ModelRecord, ModelRef, check_name


def publish(
    file: Annotated[Path, typer.Argument(help="A LightGBM text model or an ONNX model.")],
    tenant: Annotated[str, typer.Option(help="Whose model it is.")],
    model: Annotated[str, typer.Option(help="What it is called.")],
    store: StoreOption,
    version: Annotated[str | None, typer.Option(help="Its version; default: the next free number.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Point this alias at it; default: live.")] = None,
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Publish a model file as a new version. Doing it again with the same --version is harmless."""
    ref, aliases = ModelRef(tenant, model), alias or [LIVE]

    async def work(registry: Registry) -> Manifest:
        return await registry.publisher.publish(file, ref, version=version, aliases=aliases)

    manifest = with_registry(etcd, store, cluster, work)
    if output is OutputFormat.JSON:
        show_json(manifest)
    else:
        typer.echo(f"published {ref} version {manifest.version} as {', '.join(aliases)}")


def ls(
    tenant: Annotated[str, typer.Argument(help="Only this tenant's models.")] = "",
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """List the models that scorers know, with their aliases."""

    async def work(client: Etcd, keys: Keys) -> list[dict[str, Any]]:
        prefix = keys.models_prefix + (f"{check_name('tenant', tenant)}/".encode() if tenant else b"")
        return [_listed(kv, keys) for kv in (await client.list_prefix(prefix)).kvs]

    rows = with_etcd(etcd, cluster, work)
    show_rows(rows, ["model", "aliases", "runtime", "memory_mib"], output, "no models")


def _listed(kv: KeyValue, keys: Keys) -> dict[str, Any]:
    """One line of `ls`; an entry that somebody else damaged is shown as such and stops nothing."""
    name = kv.key.removeprefix(keys.models_prefix).decode(errors="replace")
    try:
        record = decode_model(kv.value)
    except msgspec.DecodeError:
        record = ModelRecord(0, {})
        name += " (damaged entry: run `scoremesh sync`)"
    versions = record.aliases.values()
    return {
        "model": name,
        "aliases": {alias: version.version for alias, version in sorted(record.aliases.items())},
        "runtime": ",".join(sorted({version.runtime.value for version in versions})) or "-",
        "memory_mib": mib(max((version.resident_bytes for version in versions), default=0)),
    }


def describe(model: ModelArgument, store: StoreOption, output: OutputOption = OutputFormat.TABLE) -> None:
    """Show a model's aliases, versions, features and outputs, as object storage has them."""
    found = with_library(store, lambda library: library.describe(model))
    if output is OutputFormat.JSON:
        show_json(
            {"model": str(found.ref), "aliases": found.aliases, "revision": found.revision, "versions": found.versions}
        )
    else:
        _show_description(found)


def _show_description(found: ModelDescription) -> None:
    aliases = ", ".join(f"{alias} -> {version}" for alias, version in sorted(found.aliases.items()))
    typer.echo(f"{found.ref}: {aliases or 'no alias'} (alias revision {found.revision})\n")
    columns = ["version", "runtime", "features", "outputs", "file MiB", "memory MiB", "us a row", "published", "by"]
    console().print(table(columns, [_version_cells(manifest) for manifest in found.versions]))


def _version_cells(manifest: Manifest) -> list[Any]:
    schema = manifest.schema
    return [
        manifest.version,
        manifest.runtime.value,
        len(schema.features) + len(schema.string_columns),
        ", ".join(f"{output.name}: {output.kind.value}" for output in schema.outputs),
        mib(manifest.artifact_bytes),
        mib(manifest.resident_bytes),
        round(manifest.predict_us.get("1", 0.0), 1),
        manifest.created_at.partition(".")[0],
        manifest.published_by or "-",
    ]


class Assignment(NamedTuple):
    """Which version an alias is to point at."""

    alias: str
    version: str


def _parse_assignment(text: str) -> Assignment:
    alias, equals, version = text.partition("=")
    if not (alias and equals and version):
        raise typer.BadParameter("write ALIAS=VERSION")
    return Assignment(alias, version)


def alias(
    model: ModelArgument,
    assignment: Annotated[
        Assignment, typer.Argument(parser=_parse_assignment, metavar="ALIAS=VERSION", help="Such as live=3.")
    ],
    store: StoreOption,
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
) -> None:
    """Point an alias at a published version; the next request uses it."""

    async def work(registry: Registry) -> None:
        await registry.publisher.set_alias(model, assignment.alias, assignment.version)

    with_registry(etcd, store, cluster, work)
    typer.echo(f"{model}: {assignment.alias} -> {assignment.version}")


def sync(
    store: StoreOption,
    model: Annotated[str, typer.Argument(metavar="[TENANT/MODEL]", help="Only this model.")] = "",
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
) -> None:
    """Bring what object storage has to etcd, as after etcd lost its data or a publisher died half-way."""
    ref = parse_ref(model) if model else None

    async def work(registry: Registry) -> int:
        if ref is None:
            return await registry.publisher.sync_all()
        await registry.publisher.sync(ref)
        return 1

    count = with_registry(etcd, store, cluster, work)
    typer.echo(f"synced {count} model{'' if count == 1 else 's'}")
