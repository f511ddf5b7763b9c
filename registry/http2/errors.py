"""What ends an HTTP/2 connection. Pure."""

from __future__ import annotations


class PeerError(Exception):
    """The peer broke the protocol in a way that ends the connection. Never leaves the connection's own object."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
