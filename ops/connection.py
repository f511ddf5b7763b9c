"""Where the commands find etcd, the object store and a router: their common options, and what is opened with them.

A secured etcd is set by environment variables alone, since a password on a command line is public on its machine:
SCOREMESH_ETCD_USER, SCOREMESH_ETCD_PASSWORD, and the PEM files SCOREMESH_ETCD_CA, SCOREMESH_ETCD_CERT and
SCOREMESH_ETCD_KEY.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from registry.errors import InvalidRequestError
from registry.etcd import Etcd, TlsFiles
from registry.keys import Keys
from registry.model import ModelRef, check_name
from registry.options import EtcdOptions

EtcdOption = Annotated[
    str, typer.Option("--etcd", envvar="SCOREMESH_ETCD", metavar="HOST:PORT,...", help="The endpoints of etcd.")
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="SCOREMESH_STORE", metavar="URL", help="The object store: file:///dir or s3://bucket/prefix."
    ),
]
ClusterOption = Annotated[
    str, typer.Option("--cluster", envvar="SCOREMESH_CLUSTER", metavar="NAME", help="The name of the cluster.")
]
DEFAULT_ETCD = "127.0.0.1:2379"
DEFAULT_CLUSTER = "default"
_T = TypeVar("_T")


def parse_ref(text: str) -> ModelRef:
    """The model that "tenant/model" names; for typer, which turns the error into a usage message."""
    tenant, slash, model = text.partition("/")
    if not slash:
        raise typer.BadParameter("write TENANT/MODEL")
    try:
        return ModelRef(check_name("tenant", tenant), check_name("model", model))
    except InvalidRequestError as error:
        raise typer.BadParameter(error.message) from error


ModelArgument = Annotated[ModelRef, typer.Argument(parser=parse_ref, metavar="TENANT/MODEL", help="The model.")]


def split_endpoints(text: str) -> list[str]:
    """The endpoints in a comma-separated list."""
    return [endpoint.strip() for endpoint in text.split(",") if endpoint.strip()]


def with_etcd(endpoints: str, cluster: str, work: Callable[[Etcd, Keys], Coroutine[Any, Any, _T]]) -> _T:
    """Run `work` with a connection to etcd, and return its result."""

    async def run() -> _T:
        async with _open_etcd(endpoints) as etcd:
            return await work(etcd, Keys(cluster))

    return asyncio.run(run())


def etcd_settings(endpoints: str) -> EtcdOptions:
    """Where etcd is and how to log in, from the command line and the environment."""
    return EtcdOptions(
        etcd=split_endpoints(endpoints),
        etcd_user=os.environ.get("SCOREMESH_ETCD_USER", ""),
        etcd_password=os.environ.get("SCOREMESH_ETCD_PASSWORD", ""),
        etcd_tls=_etcd_tls(),
    )


@contextlib.asynccontextmanager
async def _open_etcd(endpoints: str) -> AsyncIterator[Etcd]:
    settings = etcd_settings(endpoints)
    etcd = Etcd(
        settings["etcd"],
        user=settings["etcd_user"],
        password=settings["etcd_password"],
        tls=settings["etcd_tls"],
    )
    try:
        yield etcd
    finally:
        await etcd.aclose()


def _etcd_tls() -> TlsFiles | None:
    ca, cert, key = (os.environ.get(f"SCOREMESH_ETCD_{name}", "") for name in ("CA", "CERT", "KEY"))
    if not ca:
        return None
    files = TlsFiles(Path(ca), Path(cert) if cert else None, Path(key) if key else None)
    for path in files:
        if path is not None and not path.is_file():
            raise InvalidRequestError(f"there is no certificate file {path}")
    return files


def user_name() -> str:
    """Who publishes; a container may have a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
