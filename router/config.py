"""The router's settings: one frozen value, read from the command line."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from typing import NamedTuple

from registry.etcd import TlsFiles
from registry.options import add_etcd_options, add_server_options, etcd_options, tls_files


class RouterConfig(NamedTuple):
    """See `parse` for what each means."""

    listen: str
    cluster: str
    etcd: Sequence[str]
    etcd_user: str
    etcd_password: str
    etcd_tls: TlsFiles | None
    tls: TlsFiles | None
    front: str
    default_timeout_s: float
    drain_s: float
    max_message_bytes: int
    id: str
    lease_s: float
    stale_view_s: float
    workers: int
    worker: int


def parse(arguments: Sequence[str] | None = None) -> RouterConfig:
    """Read the command line; exits with a message when it's wrong."""
    parser = argparse.ArgumentParser(prog="python -m router", description="Routes Score requests to scorers.")
    add_server_options(parser, default_port=7100)
    add_etcd_options(parser)
    parser.add_argument("--default-timeout-s", type=float, default=5.0, help="deadline of a call that has none")
    parser.add_argument("--id", default="", help="id of this router in etcd; default: host name and port")
    parser.add_argument("--lease-s", type=float, default=10.0, help="as for scorers: quotas are shared by live routers")
    parser.add_argument(
        "--stale-view-s", type=float, default=60.0, help="warn when nothing was heard from etcd for so long"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the port, each with its own connections"
    )
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if not 1 <= args.workers <= 512:
        parser.error("--workers must be 1 to 512")
    return RouterConfig(
        listen=args.listen,
        cluster=args.cluster,
        **etcd_options(args),
        tls=tls_files(args.tls_ca, args.tls_cert, args.tls_key),
        front=args.front,
        default_timeout_s=args.default_timeout_s,
        drain_s=args.drain_s,
        max_message_bytes=args.max_message_bytes,
        id=args.id,
        lease_s=args.lease_s,
        stale_view_s=args.stale_view_s,
        workers=args.workers,
        worker=args.worker,
    )


def router_id(config: RouterConfig, port: int) -> str:
    """What the router is called in etcd: tells an operator where it is, and no other process has it."""
    name = config.id or f"{socket.gethostname()[:100]}-{port}"
    return name if config.worker < 0 else f"{name}-{config.worker}"
