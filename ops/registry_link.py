"""How the commands reach the registry: a running one, or one inside this very process.

Contract: both are spoken to by the same gRPC stub, so that a command has one way to work. `--registry HOST:PORT` names
a running one, with TLS where SCOREMESH_REGISTRY_CA (and _CERT, _KEY) names PEM files; without it the process serves
itself over a socket in a directory that only its user can open, from `--store` and `--etcd`. Failures are
`client.ScoreError`s, made from the status that the registry sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_type_hints

import grpc
import typer

from client.errors import error_of_call
from ops.connection import (
    DEFAULT_CLUSTER,
    DEFAULT_ETCD,
    ClusterOption,
    EtcdOption,
    StoreOption,
    etcd_settings,
    user_name,
)
from ops.server_process import open_channel
from registry.errors import InvalidRequestError
from registry.etcd import TlsFiles
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

if TYPE_CHECKING:
    from registry.deployment import Deployment

RegistryOption = Annotated[
    str,
    typer.Option(
        "--registry", envvar="SCOREMESH_REGISTRY", metavar="HOST:PORT", help="A running registry; default: none needed."
    ),
]
MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS: dict[str, tuple[Any, str]] = {
    "registry": (RegistryOption, ""),
    "store": (StoreOption, ""),
    "etcd": (EtcdOption, DEFAULT_ETCD),
    "cluster": (ClusterOption, DEFAULT_CLUSTER),
}
_T = TypeVar("_T")


class Target(NamedTuple):
    """Where the registry is, or what it is made of."""

    registry: str
    store: str
    etcd: str
    cluster: str


def takes_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is a Target, the options that make one."""
    hints = get_type_hints(command, include_extras=True)
    _, *own = inspect.signature(command).parameters.values()
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(Target(**{name: values.pop(name) for name in _OPTIONS}), **values)

    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]) for parameter in own
    ]
    run.__signature__ = inspect.Signature([*kept, *more])  # type: ignore[attr-defined] # what typer reads
    run.__annotations__ = {name: hints[name] for name in hints if name not in {"target", "return"}} | {
        name: kind for name, (kind, _) in _OPTIONS.items()
    }
    return run


def with_stub(target: Target, work: Callable[[RegistryServiceStub], Coroutine[Any, Any, _T]]) -> _T:
    """Run `work` with a stub of the registry, and return its result.

    Raises:
        ScoreError: the registry refused, or can't be reached.
        InvalidRequestError: neither a registry nor a store is named.
    """

    async def run() -> _T:
        async with _open(target) as stub:
            try:
                return await work(stub)
            except grpc.RpcError as error:
                raise error_of_call(error) from error

    return asyncio.run(run())


def deployed(target: Target) -> Deployment:
    """The registry that this process is itself. Raises InvalidRequestError: no store is named."""
    if not target.store:
        raise InvalidRequestError("name the object store with --store, or a running registry with --registry")
    from registry.deployment import Deployment  # A whole registry; half of the time that such a command takes to start.

    etcd = etcd_settings(target.etcd)
    return Deployment(store=target.store, cluster=target.cluster, published_by=user_name(), **etcd)


@contextlib.asynccontextmanager
async def _open(target: Target) -> AsyncIterator[RegistryServiceStub]:
    if target.registry:
        async with open_channel(target.registry, _tls()) as channel:
            yield RegistryServiceStub(channel)  # type: ignore[no-untyped-call] # generated
        return
    with tempfile.TemporaryDirectory(prefix="scoremesh-registry-") as folder:
        address = f"unix:{folder}/socket"
        async with (
            deployed(target) as deployment,
            deployment.serving(address),
            grpc.aio.insecure_channel(
                address, options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
            ) as channel,
        ):
            yield RegistryServiceStub(channel)  # type: ignore[no-untyped-call] # generated


def _tls() -> TlsFiles | None:
    ca, cert, key = (os.environ.get(f"SCOREMESH_REGISTRY_{name}", "") for name in ("CA", "CERT", "KEY"))
    return TlsFiles(Path(ca), Path(cert) if cert else None, Path(key) if key else None) if ca else None
