"""The router's settings: one frozen value, read from the command line."""

from __future__ import annotations

import argparse
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
    replicas: int
    default_timeout_s: float
    drain_s: float
    max_message_bytes: int


def parse(arguments: Sequence[str] | None = None) -> RouterConfig:
    """Read the command line; exits with a message when it's wrong."""
    parser = argparse.ArgumentParser(prog="python -m router", description="Routes Score requests to scorers.")
    add_server_options(parser, default_port=7100)
    add_etcd_options(parser)
    parser.add_argument("--replicas", type=int, default=2, help="members that own a model")
    parser.add_argument("--default-timeout-s", type=float, default=5.0, help="deadline of a call that has none")
    args = parser.parse_args(arguments)
    if args.replicas < 1:
        parser.error("--replicas must be at least 1")
    return RouterConfig(
        listen=args.listen,
        cluster=args.cluster,
        **etcd_options(args),
        tls=tls_files(args.tls_ca, args.tls_cert, args.tls_key),
        front=args.front,
        replicas=args.replicas,
        default_timeout_s=args.default_timeout_s,
        drain_s=args.drain_s,
        max_message_bytes=args.max_message_bytes,
    )
