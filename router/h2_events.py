"""What can happen on an HTTP/2 connection of `router.h2`. Pure values."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One whole message of a response."""

    stream_id: int
    payload: bytes


class Ended(NamedTuple):
    """The last event of a stream. `status`: a gRPC status code. `sent`: False where the peer's application surely never
    got the request, so that a retry is safe.
    """

    stream_id: int
    status: int
    message: str
    sent: bool


class Ready(NamedTuple):
    """The peer's first SETTINGS came: it does speak HTTP/2, and its limits are known."""


class PingAcked(NamedTuple):
    """The peer answered a ping."""


class GoAway(NamedTuple):
    """The peer takes no new streams. Those above `last_stream_id` have ended; the others go on."""

    last_stream_id: int


class ConnectionFailed(NamedTuple):
    """The connection is of no more use; all streams have ended."""

    reason: str


Event = Message | Ended | Ready | PingAcked | GoAway | ConnectionFailed
