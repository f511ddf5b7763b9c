"""Command-line options that the server processes share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TypedDict

from registry.etcd import TlsFiles
from registry.server import FRONTS, MAX_MESSAGE_BYTES


class EtcdOptions(TypedDict):
    """Where etcd is and how to log in."""

    etcd: list[str]
    etcd_user: str
    etcd_password: str
    etcd_tls: TlsFiles | None


def add_server_options(parser: argparse.ArgumentParser, *, default_port: int) -> None:
    """What routers and scorers have in common: where to listen, with which server, and how to stop."""
    add_listen_options(parser, default_port=default_port)
    parser.add_argument("--front", default="", choices=["", *FRONTS], help="force one of the gRPC servers")
    parser.add_argument("--max-message-bytes", type=int, default=MAX_MESSAGE_BYTES, help="larger requests are refused")


def add_listen_options(parser: argparse.ArgumentParser, *, default_port: int) -> None:
    """Where to listen, and how to stop."""
    parser.add_argument("--listen", default=f"127.0.0.1:{default_port}", help="host:port; port 0 takes a free one")
    parser.add_argument("--cluster", default="default", help="name of the cluster; part of every etcd key")
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate of this server; turns TLS on")
    parser.add_argument("--tls-key", type=Path, help="PEM key of this server")
    parser.add_argument("--tls-ca", type=Path, help="PEM CA; callers must then show a certificate of it")
    parser.add_argument("--drain-s", type=float, default=10.0, help="seconds that a stop waits for running calls")


def add_etcd_options(parser: argparse.ArgumentParser) -> None:
    """Where etcd is. The password comes from the environment, since command lines are public on a machine."""
    parser.add_argument("--etcd", default="127.0.0.1:2379", help="host:port of each etcd endpoint, comma-separated")
    parser.add_argument("--etcd-user", default="", help="etcd user; its password is read from SCOREMESH_ETCD_PASSWORD")
    parser.add_argument("--etcd-ca", type=Path, help="PEM CA of etcd; turns TLS on")
    parser.add_argument("--etcd-cert", type=Path, help="PEM client certificate for etcd")
    parser.add_argument("--etcd-key", type=Path, help="PEM client key for etcd")


def etcd_options(args: argparse.Namespace) -> EtcdOptions:
    """What `add_etcd_options` read."""
    return EtcdOptions(
        etcd=[endpoint.strip() for endpoint in args.etcd.split(",") if endpoint.strip()],
        etcd_user=args.etcd_user,
        etcd_password=os.environ.get("SCOREMESH_ETCD_PASSWORD", ""),
        etcd_tls=TlsFiles(args.etcd_ca, args.etcd_cert, args.etcd_key) if args.etcd_ca else None,
    )


def tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    """The server's own certificate, or None for plain text."""
    return TlsFiles(ca or Path(), cert, key) if cert else None
