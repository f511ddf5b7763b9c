"""The command `publish-many`: a directory or a list of model files, as many as there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import grpc
import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.errors import error_of_call
from ops.connection import user_name
from ops.publish import upload
from ops.registry_link import Target, deployed, takes_target, with_stub
from ops.resource_names import last_part, model_name, parse_pairs
from ops.show import console
from registry.bulk_publish import Done, Item, Outcome, PublishItem, Summary, publish_item, publish_many, read_items
from registry.errors import ScoreMeshError, UnavailableError
from registry.model import LIVE
from registry.offer import read_offer, split_digest
from registry.publish import SIZE_LIMIT_BYTES
from registry.service.schemas import to_golden
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

_SHOWN_FAILURES = 20


@takes_target
def many(
    target: Target,
    source: Annotated[Path, typer.Argument(help="A directory with <tenant>/<model>.txt or .onnx, or a .jsonl file.")],
    application: Annotated[str, typer.Option(help="The application that the models are of.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For selecting them.")] = None,
    training: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the training.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="How many at a time.")] = 8,
) -> None:
    """Publish many model files as live. Run it again after an interruption: what is live already is left alone."""
    labels, trained = parse_pairs(label, "--label"), parse_pairs(training, "--training")
    total = sum(1 for _ in read_items(source))
    items = (_with_facts(item, application, labels, trained) for item in read_items(source))
    if target.registry:
        summary = with_stub(target, lambda stub: _run(partial(upload_item, stub), items, total, concurrency))
    else:
        summary = asyncio.run(_run_here(target, items, total, concurrency))
    _report(summary)
    if summary.failed:
        raise typer.Exit(1)


async def upload_item(stub: RegistryServiceStub, item: Item) -> Done:
    """Publish one item through a running registry. Its content is the request's id: repeating it is harmless."""
    offer = await read_offer(item.path, None, SIZE_LIMIT_BYTES, item.facts)
    facts = item.facts
    content = f"sha256-{offer.digest}{split_digest(offer)[:32]}"
    spec = pb.PublishSpec(
        parent=model_name(item.ref),
        version=item.version or "",
        aliases=[LIVE],
        application=facts.application,
        labels=facts.labels,
        training=facts.training,
        transforms_json=bytes(facts.transforms).decode(),
        signature=facts.signature,
        golden=to_golden(facts.golden) if facts.golden is not None else None,
        allow_breaking=facts.allow_breaking,
        request_id=item.request_id or ("" if item.version else content),
        sha256=offer.digest,
    )
    try:
        published = await upload(stub, spec, offer.data)
    except grpc.RpcError as error:
        failure = error_of_call(error)
        kind = UnavailableError if failure.code is grpc.StatusCode.UNAVAILABLE else ScoreMeshError
        raise kind(f"{failure.reason}: {failure.message}") from error
    return Done(item, Outcome.PUBLISHED, last_part(published.name))


async def _run_here(target: Target, items: Iterator[Item], total: int, concurrency: int) -> Summary:
    async with deployed(target) as deployment:
        return await _run(partial(publish_item, deployment.publisher(user_name())), items, total, concurrency)


async def _run(publish: PublishItem, items: Iterator[Item], total: int, concurrency: int) -> Summary:
    columns = (TextColumn("publish"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("models", total=total)
        return await publish_many(publish, items, concurrency, lambda _: progress.advance(task))


def _with_facts(item: Item, application: str, labels: dict[str, str], training: dict[str, str]) -> Item:
    facts = msgspec.structs.replace(
        item.facts,
        application=item.facts.application or application,
        labels=labels | item.facts.labels,
        training=training | item.facts.training,
    )
    return item._replace(facts=facts)


def _report(summary: Summary) -> None:
    for failure in summary.failures[:_SHOWN_FAILURES]:
        typer.echo(f"{failure.item.path}: {failure.why}", err=True)
    if summary.failed > _SHOWN_FAILURES:
        typer.echo(f"and {summary.failed - _SHOWN_FAILURES} more", err=True)
    count = summary.published + summary.unchanged + summary.failed
    typer.echo(
        f"published {summary.published}, unchanged {summary.unchanged}, failed {summary.failed}: "
        f"{count} models in {summary.elapsed_s:.1f} s"
    )
