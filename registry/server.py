"""The one server factory.

`listen` gives the project's own front, which serves plain text and TLS. Two others serve the same methods and pass
the same tests: `native` (pygrpc_native, plain text only) and `aio` (grpcio's own server), for comparison and as a way
out.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import grpc

from registry.errors import InvalidRequestError
from registry.etcd import TlsFiles
from registry.front import Front, Gate

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
FRONTS = ("http2", "native", "aio")


def listen(
    address: str,
    *,
    tls: TlsFiles | None = None,
    front: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    reuse_port: bool = False,
) -> Front:
    """Bind a server; `start(methods)` lets calls in.

    Args:
        address: host:port; port 0 takes a free one. tls: the server's certificate, or None for plain text. With a CA,
        callers must show a certificate of it. front: one of FRONTS; "" takes the variable SCOREMESH_FRONT, or else
        http2. Where TLS is on, aio stands in for native. max_message_bytes: larger requests are refused with
        RESOURCE_EXHAUSTED. reuse_port: several processes share the port, and the kernel spreads connections over them.

    Raises:
        OSError: the address can't be bound.
        InvalidRequestError: a front that doesn't exist, or TLS without certificate and key.
    """
    gate = Gate(max_message_bytes)
    match front or os.environ.get("SCOREMESH_FRONT", "") or "http2":
        case "http2":
            from registry.front_http2 import Http2Front

            return Http2Front(address, gate, server_context(tls), reuse_port=reuse_port)
        case "native" if tls is None:
            from registry.front_native import NativeFront

            return NativeFront(address, gate, reuse_port=reuse_port)
        case "aio" | "native":
            from registry.front_aio import AioFront

            return AioFront(address, gate, server_credentials(tls), reuse_port=reuse_port)
        case other:
            raise InvalidRequestError(f"front {other!r} is unknown; there are {', '.join(FRONTS)}")


def server_context(tls: TlsFiles | None) -> ssl.SSLContext | None:
    """How our own front speaks TLS."""
    if tls is None:
        return None
    cert, key, authority = _parts(tls)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(cert, key)
    if authority is not None:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_credentials(tls: TlsFiles | None) -> grpc.ServerCredentials | None:
    """The same for grpcio's server."""
    if tls is None:
        return None
    cert, key, authority = _parts(tls)
    root = authority.read_bytes() if authority is not None else None
    pair = (key.read_bytes(), cert.read_bytes())
    return grpc.ssl_server_credentials([pair], root, require_client_auth=root is not None)


def _parts(tls: TlsFiles) -> tuple[Path, Path, Path | None]:
    if tls.cert is None or tls.key is None:
        raise InvalidRequestError("a TLS server needs a certificate and a key")
    return tls.cert, tls.key, tls.ca if tls.ca != Path() else None
