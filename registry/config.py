"""The registry's settings: one frozen value, read from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from registry.etcd import TlsFiles
from registry.options import add_etcd_options, add_listen_options, etcd_options, tls_files


class RegistryConfig(NamedTuple):
    """See `parse` for what each means."""

    listen: str
    cluster: str
    etcd: Sequence[str]
    etcd_user: str
    etcd_password: str
    etcd_tls: TlsFiles | None
    tls: TlsFiles | None
    drain_s: float
    store: str
    admissions: int
    uploads: int
    prepare_timeout_s: float
    guard_interval_s: float


def parse(arguments: Sequence[str] | None = None) -> RegistryConfig:
    """Read the command line; exits with a message when it's wrong."""
    parser = argparse.ArgumentParser(prog="python -m registry", description="Publishes models and rolls them out.")
    add_listen_options(parser, default_port=7300)
    add_etcd_options(parser)
    add = parser.add_argument
    add("--store", required=True, help="object storage: file:///dir or s3://bucket/prefix")
    add("--admissions", type=int, default=2, help="processes that try offered files")
    add("--uploads", type=int, default=8, help="uploads that are taken in at once; the others wait")
    add("--prepare-timeout-s", type=float, default=30.0, help="seconds that a scorer has to load a new version")
    add("--guard-interval-s", type=float, default=5.0, help="seconds between two looks at the canaries")
    args = parser.parse_args(arguments)
    for name in ("admissions", "uploads", "prepare_timeout_s", "guard_interval_s"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    return RegistryConfig(
        listen=args.listen,
        cluster=args.cluster,
        **etcd_options(args),
        tls=tls_files(args.tls_ca, args.tls_cert, args.tls_key),
        drain_s=args.drain_s,
        store=args.store,
        admissions=args.admissions,
        uploads=args.uploads,
        prepare_timeout_s=args.prepare_timeout_s,
        guard_interval_s=args.guard_interval_s,
    )
