"""A scorer's settings: one frozen value, read from the command line."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from registry.etcd import TlsFiles
from registry.options import add_etcd_options, add_server_options, etcd_options, tls_files
from scorer.cgroup import memory_limit_bytes
from scorer.memory_budget import LEAST_BYTES, MemoryBudget, of_process, size_bytes

_MIB = 1024 * 1024
_MOST = "90%"


class ScorerConfig(NamedTuple):
    """See `parse` for what each means."""

    listen: str
    advertise_host: str
    cluster: str
    etcd: Sequence[str]
    etcd_user: str
    etcd_password: str
    etcd_tls: TlsFiles | None
    tls: TlsFiles | None
    front: str
    drain_s: float
    max_message_bytes: int
    store: str
    id: str
    host: str
    zone: str
    pool: str
    capacity_bytes: int
    budget: MemoryBudget
    cache_dir: Path
    disk_bytes: int
    lease_s: float
    workers: int
    worker: int
    hang_s: float
    warm_s: float
    handover_s: float
    in_flight_fd: int


def parse(arguments: Sequence[str] | None = None) -> ScorerConfig:
    """Read the command line; exits with a message when it's wrong."""
    parser = argparse.ArgumentParser(prog="python -m scorer", description="Scores rows with models paged in on demand.")
    add_server_options(parser, default_port=7200)
    add_etcd_options(parser)
    add = parser.add_argument
    add("--store", required=True, help="object storage: file:///dir or s3://bucket/prefix")
    add("--id", default="", help="id of this member; default: host and port")
    add("--host", default=socket.gethostname(), help="the machine: replicas of a model go to different ones")
    add("--zone", default="default", help="the failure zone of the machine")
    add("--pool", default="default", help="scorers of one runtime version")
    add("--advertise-host", default="", help="host that routers connect to; default: the one listened on")
    room = parser.add_mutually_exclusive_group()
    room.add_argument(
        "--memory",
        default="",
        help="what all workers together may take, models and all else: bytes (2GiB), or a share of the container's "
        "limit (80%%); at least 128MiB a worker",
    )
    room.add_argument(
        "--capacity-mib",
        type=float,
        default=512.0,
        help="memory for models alone, shared evenly by the workers; all else comes on top (default: 512)",
    )
    add("--cache-dir", type=Path, default=Path("/tmp/scoremesh"), help="directory of the local disk tier")  # noqa: S108
    add("--disk-mib", type=float, default=1024.0, help="bound of the local disk tier, shared evenly by the workers")
    add("--lease-s", type=float, default=10.0, help="after this time without contact to etcd a member counts as gone")
    add(
        "--workers",
        type=int,
        default=1,
        help="processes under a supervisor, each a member of its own on the next port; 0: this process, without one",
    )
    add("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    add("--in-flight-fd", type=int, default=-1, help=argparse.SUPPRESS)
    add(
        "--hang-s",
        type=float,
        default=10.0,
        help="a worker that doesn't react for so long is killed; a load or a long prediction may take 6 times that",
    )
    add(
        "--warm-s",
        type=float,
        default=30.0,
        help="load at most so long what others have in memory and this scorer will be asked for, before it takes "
        "requests; 0: load nothing ahead, nor when another scorer vanishes",
    )
    add(
        "--handover-s",
        type=float,
        default=10.0,
        help="before it leaves, let others load for at most so long what is in memory here; 0: don't",
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.workers <= 512:
        parser.error("--workers must be 0 to 512")
    if not args.hang_s >= 1:
        parser.error("--hang-s must be at least 1")
    if not (args.warm_s >= 0 and args.handover_s >= 0):
        parser.error("--warm-s and --handover-s must be at least 0")
    if args.capacity_mib <= 0:
        parser.error("--capacity-mib must be above 0")
    capacity_bytes, budget = _memory(parser, args)
    return ScorerConfig(
        listen=args.listen,
        advertise_host=args.advertise_host or args.listen.rpartition(":")[0],
        cluster=args.cluster,
        **etcd_options(args),
        tls=tls_files(args.tls_ca, args.tls_cert, args.tls_key),
        front=args.front,
        drain_s=args.drain_s,
        max_message_bytes=args.max_message_bytes,
        store=args.store,
        id=args.id,
        host=args.host,
        zone=args.zone,
        pool=args.pool,
        capacity_bytes=capacity_bytes,
        budget=budget,
        cache_dir=args.cache_dir,
        disk_bytes=int(args.disk_mib * _MIB) // max(1, args.workers),
        lease_s=args.lease_s,
        workers=args.workers,
        worker=args.worker,
        hang_s=args.hang_s,
        warm_s=args.warm_s,
        handover_s=args.handover_s,
        in_flight_fd=args.in_flight_fd,
    )


def _memory(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[int, MemoryBudget]:
    """What the models of one worker may take at first, and its budget. With --capacity-mib all else may take most of
    what the container has before models have to go for it.
    """
    workers, there = max(1, args.workers), memory_limit_bytes()
    try:
        limit_bytes = min(size_bytes(args.memory or _MOST, there), there) // workers
    except ValueError as error:
        parser.error(f"--memory {error}")
    if not args.memory:
        capacity_bytes = int(args.capacity_mib * _MIB) // workers
        return capacity_bytes, MemoryBudget(limit_bytes, capacity_bytes)
    if limit_bytes < LEAST_BYTES:
        parser.error(f"--memory is {limit_bytes >> 20} MiB a worker, and must be at least {LEAST_BYTES >> 20}")
    budget, capacity_bytes = of_process(limit_bytes)
    return capacity_bytes, budget


def of_worker(config: ScorerConfig, worker: int) -> ScorerConfig:
    """The settings of one worker; one of several has its own port (unless free ones are taken), id and directory."""
    if config.workers <= 1:
        return config._replace(worker=worker)
    host, _, port = config.listen.rpartition(":")
    return config._replace(
        listen=f"{host}:{int(port) + worker if int(port) else 0}",
        id=f"{config.id}-{worker}" if config.id else "",
        cache_dir=config.cache_dir / f"worker-{worker}",
        worker=worker,
    )


def default_id(host: str, port: int) -> str:
    """An id that tells an operator where the member is, and that no other process on the machine has."""
    return f"{host}-{port}".replace(":", "-")[:120] or f"scorer-{os.getpid()}"
