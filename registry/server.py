"""The one server factory, and the life of a server process: health, drain, stop.

`listen` returns the native front where it serves (no TLS, package installed) and grpcio's own server otherwise. Both
pass the same tests.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from registry.errors import InvalidRequestError
from registry.etcd import TlsFiles
from registry.front import Front, Gate

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class Health:
    """The standard `grpc.health.v1` service: for "" and for each service named here, all alike."""

    def __init__(self, services: Sequence[str]) -> None:
        self._names = ("", *services)
        self._servicer = health.aio.HealthServicer()
        self.ready = False

    async def set_ready(self, ready: bool) -> None:
        """Tell probes and load balancers whether this server wants traffic."""
        self.ready = ready
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, serving)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)


def server_credentials(tls: TlsFiles | None) -> grpc.ServerCredentials | None:
    """Credentials of a server from its PEM files; with a CA, callers must show a certificate of it."""
    if tls is None:
        return None
    if tls.cert is None or tls.key is None:
        raise InvalidRequestError("a TLS server needs a certificate and a key")
    authority = tls.ca.read_bytes() if tls.ca != Path() else None
    pair = (tls.key.read_bytes(), tls.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def listen(
    address: str,
    servicers: Sequence[Callable[[grpc.aio.Server], None]] = (),
    *,
    tls: TlsFiles | None = None,
    front: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Front:
    """Bind a server; `start(methods)` lets calls in.

    Args:
        address: host:port; port 0 takes a free one.
        servicers: functions that add ordinary servicers, served by grpcio in both cases.
        tls: the server's certificate, or None for plain text.
        front: "native" or "aio" to force one; "" (or the variable SCOREMESH_FRONT) chooses.
        max_message_bytes: larger requests are refused with RESOURCE_EXHAUSTED.

    Raises:
        OSError: the address can't be bound.
    """
    gate = Gate(max_message_bytes)
    if _use_native(front or os.environ.get("SCOREMESH_FRONT", ""), tls):
        from registry.front_native import NativeFront

        return NativeFront(address, servicers, gate)
    from registry.front_aio import AioFront

    return AioFront(address, servicers, gate, server_credentials(tls))


def _use_native(front: str, tls: TlsFiles | None) -> bool:
    if front not in ("", "native", "aio"):
        raise InvalidRequestError(f"front {front!r} is unknown; it is native or aio")
    return tls is None and front != "aio" and importlib.util.find_spec("pygrpc_native") is not None
