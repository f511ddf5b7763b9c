"""Settings of the sockets that carry HTTP/2, on either side."""

from __future__ import annotations

import asyncio
import socket

_UNSENT_BYTES = 128 * 1024


def keep_little_unsent(transport: asyncio.BaseTransport) -> None:
    """Let the kernel hold little that isn't on the wire yet: what is in its buffer can't be overtaken any more, and by
    default that may be megabytes (tcp(7), TCP_NOTSENT_LOWAT). What is on the wire and not acknowledged doesn't count.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
