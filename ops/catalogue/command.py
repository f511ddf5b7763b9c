"""The command `catalogue make`: as many real models as a test wants, in a cluster's store and etcd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops.catalogue.making import Catalogue, OnProgress, bases_of, make
from ops.catalogue.spec import CatalogueSpec, TreeShare
from ops.catalogue.writing import Order
from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, StoreOption, user_name
from ops.load.spec import LoadModel
from ops.show import console
from registry.errors import InvalidRequestError
from registry.model import check_name

app = typer.Typer(help="Many real models for tests and benchmarks.", no_args_is_help=True)
_TREES = "10:0.75,30:0.2,100:0.04,200:0.01"


@app.callback()
def group() -> None:
    """A group, so that its one command has a name."""


@app.command("make")
def make_catalogue(
    models: Annotated[int, typer.Argument(min=1, max=10_000_000, help="How many.")],
    store: StoreOption = "",
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    tenants: Annotated[int, typer.Option(min=0, max=99_999, help="How many; 0: one a hundred models.")] = 0,
    skew: Annotated[float, typer.Option(min=0.0, max=3.0, help="Of models a tenant: exponent.")] = 0.8,
    prefix: Annotated[str, typer.Option(help="What the tenants' names begin with.")] = "load",
    bases: Annotated[int, typer.Option(min=1, max=1000, help="Models that are trained.")] = 50,
    trees: Annotated[str, typer.Option(metavar="TREES:SHARE,...", help="Sizes of the LightGBM models.")] = _TREES,
    onnx_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of ONNX graphs among all.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same models.")] = 1,
    sample: Annotated[int, typer.Option(min=0, help="Models that are admitted again, one by one.")] = 200,
    processes: Annotated[int, typer.Option(min=0, max=256, help="0: one a processor.")] = 0,
    models_file: Annotated[Path | None, typer.Option(help="Write what `scoremesh load --models` reads.")] = None,
) -> None:
    """Make models from few trained ones, each with numbers of its own, and publish them in bulk. Run it again after an
    interruption: what is there is left alone.
    """
    if not store:
        raise InvalidRequestError("name the object store with --store")
    check_name("prefix", prefix)
    spec = CatalogueSpec(
        models=models,
        tenants=min(models, tenants or max(1, models // 100)),
        prefix=prefix,
        skew=skew,
        bases=bases,
        trees=parse_trees(trees),
        onnx_share=onnx_share,
        seed=seed,
    )
    order = Order(
        spec=spec,
        bases=(),
        store=store,
        etcd=etcd,
        cluster=cluster,
        published_by=user_name(),
        processes=processes or os.cpu_count() or 1,
    )
    if models_file is not None:
        _check_writable(models_file)
    made = _with_progress(order, sample)
    if models_file is not None:
        models_file.write_bytes(b"".join(_model_lines(made.order)))
    typer.echo(
        f"made {made.made:,} models, {made.present:,} were there: {models:,} of {spec.tenants:,} tenants in "
        f"{made.elapsed_s:.1f} s; {made.tried:,} of them admitted again, the largest in memory "
        f"{made.most_resident:.3f} times as large as its manifest says"
    )


def parse_trees(text: str) -> tuple[TreeShare, ...]:
    """Sizes of models, as "10:0.8,100:0.2". Raises InvalidRequestError."""
    found = []
    for part in text.split(","):
        trees, _, share = part.partition(":")
        try:
            found.append(msgspec.convert({"trees": trees, "share": share or "1"}, TreeShare, strict=False))
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"trees {text!r}: wanted TREES:SHARE,...") from error
    if not all(1 <= each.trees <= 10_000 and 0 < each.share < float("inf") for each in found):
        raise InvalidRequestError(f"trees {text!r}: wanted 1 to 10,000 trees, and shares above 0")
    return tuple(found)


def _with_progress(order: Order, sample: int) -> Catalogue:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done)  # type: ignore[arg-type] # TaskID is an int

        shown: OnProgress = show
        return asyncio.run(make(order, sample, shown))


def _check_writable(path: Path) -> None:
    """Before the work, not after it."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise InvalidRequestError(f"can't write {path}: {error.strerror}") from error


def _model_lines(order: Order) -> Iterator[bytes]:
    for number, base in enumerate(bases_of(order)):
        yield msgspec.json.encode(LoadModel(*order.spec.ref(number), len(base.schema.features))) + b"\n"
