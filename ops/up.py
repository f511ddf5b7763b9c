"""The command `up`: a cluster on this machine until Ctrl-C.

Contract: SIGINT or SIGTERM stops the registry, routers, scorers and etcd in order; a second one, or a SIGKILL, ends all
at once. A part that dies is reported once, and the rest runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ops.connection import DEFAULT_CLUSTER, ClusterOption, split_endpoints
from ops.local_cluster import LocalCluster
from registry.errors import InvalidRequestError, UnavailableError
from registry.process import on_stop_signals

_LOOK_AGAIN_S = 0.5


def up(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep data here over runs; default: a fresh directory, removed after.")
    ] = None,
    etcd: Annotated[str, typer.Option(metavar="HOST:PORT,...", help="Use this etcd; default: start one.")] = "",
    store: Annotated[str, typer.Option(metavar="URL", help="Use this object store; default: a directory.")] = "",
    cluster: ClusterOption = DEFAULT_CLUSTER,
    registry_port: Annotated[int, typer.Option(min=0, max=65535, help="Of the registry; 0 takes a free one.")] = 7300,
    routers: Annotated[int, typer.Option(min=1, max=64, help="How many routers.")] = 1,
    scorers: Annotated[int, typer.Option(min=1, max=64, help="How many scorers.")] = 3,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the first router; 0 takes free ones.")] = 7100,
    capacity_mib: Annotated[float, typer.Option(min=1, help="Memory for models of each scorer.")] = 256.0,
) -> None:
    """Run a whole cluster on this machine: etcd, an object store, scorers, routers, a registry. Ctrl-C stops it."""
    check_ports_free(port, routers)
    check_ports_free(registry_port, 1)
    with _place(directory) as place:
        local = LocalCluster(
            place,
            scorers=scorers,
            routers=routers,
            etcd=split_endpoints(etcd),
            store=store,
            cluster=cluster,
            router_port=port,
            capacity_mib=capacity_mib,
            registry=True,
            registry_port=registry_port,
        )
        asyncio.run(_run(local))


def check_ports_free(first: int, count: int) -> None:
    """Raise UnavailableError if one of the ports is taken; before anything is started for nothing."""
    for port in range(first, first + count if first else first):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                text = f"port {port} of 127.0.0.1 is taken; give another one with --port (0 takes a free one)"
                raise UnavailableError(text) from error


@contextlib.contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    """A directory that no other `up` uses at the same time."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="scoremesh-") as fresh:
            yield Path(fresh)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise InvalidRequestError(f"can't use the directory {directory}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UnavailableError(f"another `scoremesh up` uses {directory}") from error
        yield directory


async def _run(local: LocalCluster) -> None:
    stop = on_stop_signals()
    typer.echo("starting ...")
    async with local:
        typer.echo(_welcome(local))
        watcher = asyncio.create_task(_report_deaths(local))
        await stop.wait()
        watcher.cancel()
        await asyncio.wait({watcher})
        typer.echo("stopping ...")
    typer.echo("stopped")


async def _report_deaths(local: LocalCluster) -> None:
    reported: set[str] = set()
    while True:
        for name, status, log_path in local.ended():
            if name not in reported:
                reported.add(name)
                typer.echo(f"{name} ended with status {status}; the rest runs on. Its log: {log_path}", err=True)
        await asyncio.sleep(_LOOK_AGAIN_S)


def _welcome(local: LocalCluster) -> str:
    first, endpoints = local.router_addresses[0], ",".join(local.etcd_endpoints)
    lines = [
        "ScoreMesh is up",
        *(f"  {router.name:<10}{router.address}" for router in local.routers),
        *([f"  {local.registry.name:<10}{local.registry.address}"] if local.registry else []),
        *(f"  {scorer.name:<10}{scorer.address}" for scorer in local.scorers),
        f"  {'etcd':<10}{endpoints}",
        f"  {'store':<10}{local.store_url}",
        f"  {'logs':<10}{local.directory / 'logs'}",
        "",
        "Type in another terminal:",
        f"  export SCOREMESH_ROUTER={first} SCOREMESH_ETCD={endpoints} SCOREMESH_STORE={local.store_url}",
        *([f"  export SCOREMESH_REGISTRY={local.registry.address}"] if local.registry else []),
        *([f"  export SCOREMESH_CLUSTER={local.cluster}"] if local.cluster != DEFAULT_CLUSTER else []),
        "  scoremesh publish model.txt --tenant acme --model churn",
        "  scoremesh score acme/churn --rows '1,2,3;4,5,6'",
        "",
        "Or in Python:",
        "  from client import Client",
        f'  with Client("{first}") as client:',
        '      print(client.score("acme", "churn", [[1, 2, 3]]).outputs)',
        "",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)
