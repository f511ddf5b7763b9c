"""Calls with bytes of the test's choice, and what a caller sees of a failure."""

from __future__ import annotations

import re
from typing import NamedTuple

import grpc

from client.errors import error_of_call
from tests.e2e.cluster import Cluster, Server

SERVICE = "/scoremesh.scoring.v1.ScoringService"
PATIENCE_S = 20.0
_NOT_FOR_USERS = re.compile(
    r"Traceback|Error\b|Exception|NoneType|asyncio|\.py\b|0x[0-9a-f]{6}|<[a-z]+ object|errno", re.IGNORECASE
)


class Refused(NamedTuple):
    """A failure as a caller sees it."""

    code: str
    reason: str
    message: str


class NotRefusedError(AssertionError):
    """The call succeeded."""


def unary_of(channel: grpc.aio.Channel, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(f"{SERVICE}/{method}")


def stream_of(
    channel: grpc.aio.Channel, method: str = "StreamScoreBatch"
) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
    return channel.unary_stream(f"{SERVICE}/{method}")


def check_plain(message: str) -> None:
    """A text for a person: something is there, and it isn't Python's."""
    assert len(message) > 8
    assert not _NOT_FOR_USERS.search(message), message


async def refused(
    cluster: Cluster,
    payload: bytes,
    method: str = "Score",
    *,
    server: Server | None = None,
    timeout_s: float = PATIENCE_S,
) -> Refused:
    """Send bytes that must be refused."""
    async with cluster.channel(server) as channel:
        try:
            if method.startswith("Stream"):
                stream = stream_of(channel, method)(payload, timeout=timeout_s)
                answer = b"".join([part async for part in stream])
            else:
                answer = await unary_of(channel, method)(payload, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            seen = error_of_call(error)
            check_plain(seen.message)
            return Refused(seen.code.name, seen.reason, seen.message)
    raise NotRefusedError(f"answered with {answer[:100]!r}")
