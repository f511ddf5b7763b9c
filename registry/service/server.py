"""The gRPC server of the registry: RegistryService and the standard health service, on `grpc.aio`.

Start: SERVING as soon as it listens; an etcd or store that is dead makes calls fail, which says more than a server that
isn't there. Stop: NOT_SERVING first, then no new calls; the running ones have `drain_s`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse

from registry.etcd import TlsFiles
from registry.server import MAX_MESSAGE_BYTES, server_credentials
from registry.service.servicer import SERVICE, Servicer

_OPTIONS = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]


@contextlib.asynccontextmanager
async def serving(
    servicer: Servicer, address: str, *, tls: TlsFiles | None = None, drain_s: float = 0.0
) -> AsyncIterator[int]:
    """Serve on host:port or unix:path inside this context; gives the port. Raises OSError: it can't be bound."""
    server = grpc.aio.server(options=_OPTIONS)
    port = _bind(server, address, server_credentials(tls))
    states = health.HealthServicer()
    await states.set(SERVICE, HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    server.add_generic_rpc_handlers([servicer.handler()])
    await server.start()
    try:
        yield port
    finally:
        await states.enter_graceful_shutdown()
        await server.stop(drain_s)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"can't listen on {address}: {error}") from error
