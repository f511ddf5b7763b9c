"""What a caller may catch: `ScoreError`, made from a gRPC status and the google.rpc details in its trailers.

Branch on `code`, or on `reason` for more; both are stable. `message` is for a person and may change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from scoremesh.scoring.v1 import scoring_pb2 as pb

_DOMAIN = "scoremesh"
_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _FailedCall(Protocol):
    """What the errors of grpc and of grpc.aio have in common; the two share no such base class."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class ScoreError(Exception):
    """A request that was not scored.

    `code`: the gRPC status. `reason`: a stable UPPER_SNAKE_CASE word; the name of the code where the failure did not
    come from ScoreMesh itself, such as a refused connection. `retry_after_ms`: after this time a retry may succeed; 0
    where no such time is known.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, retry_after_ms: int = 0) -> None:
        # All four go to Exception, so that the error survives pickling, for example between worker processes.
        super().__init__(code, reason, message, retry_after_ms)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return f"{self.code.name} ({self.reason}): {self.message}"


def error_of_call(error: grpc.RpcError) -> ScoreError:
    """The error of a call that failed as a whole; takes the errors of both grpc and grpc.aio."""
    call = cast("_FailedCall", error)
    reason, retry_after_ms = _details(call.trailing_metadata() or ())
    return ScoreError(call.code(), reason or call.code().name, call.details() or "", retry_after_ms)


def error_of_result(result: pb.ScoreResult) -> ScoreError:
    """The error of one item of a batch."""
    code = _CODES.get(result.code, grpc.StatusCode.UNKNOWN)
    return ScoreError(code, result.reason or code.name, result.message, result.retry_after_ms)


def malformed(message: str) -> ScoreError:
    """The server answered, but the answer makes no sense."""
    return ScoreError(grpc.StatusCode.INTERNAL, "MALFORMED_RESPONSE", message)


def _details(trailers: Iterable[tuple[str, str | bytes]]) -> tuple[str, int]:
    """Reason and retry hint out of the trailers; empty and 0 where there are none that can be read."""
    packed = dict(trailers).get(_DETAILS_KEY, b"")
    try:
        status = Status.FromString(packed if isinstance(packed, bytes) else b"")
        infos = [ErrorInfo.FromString(any_.value) for any_ in status.details if any_.Is(ErrorInfo.DESCRIPTOR)]
        retries = [RetryInfo.FromString(any_.value) for any_ in status.details if any_.Is(RetryInfo.DESCRIPTOR)]
    except DecodeError:
        # A proxy's garbage must not hide the status itself.
        return "", 0
    reason = next((info.reason for info in infos if info.domain == _DOMAIN), "")
    return reason, next((retry.retry_delay.ToMilliseconds() for retry in retries), 0)
