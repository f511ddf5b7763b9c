"""The one place where failures become gRPC statuses.

A `Failure` is what travels: between the tiers inside a batch result, and to a caller as status, message and the
`google.rpc.Status` with `ErrorInfo` (and `RetryInfo` where a time is known) in `grpc-status-details-bin`.
"""

from __future__ import annotations

import logging
import uuid
from typing import NamedTuple

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from registry.errors import Kind, ScoreMeshError

DOMAIN = "scoremesh"
_log = logging.getLogger(__name__)

_STATUS = {
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.CANCELLED: grpc.StatusCode.CANCELLED,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}
UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]
DEADLINE_EXCEEDED: int = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

Trailers = tuple[tuple[str, str | bytes], ...]


class Failure(NamedTuple):
    """A failure on its way to a caller. `code`: gRPC status number, never 0."""

    code: int
    message: str
    reason: str
    retry_after_ms: int = 0


def failure_of(error: BaseException) -> Failure:
    """What a caller is told of an exception. One from outside the error tree is logged with an id, and the caller gets
    the id alone: its text may hold what isn't the caller's.
    """
    if isinstance(error, ScoreMeshError):
        return Failure(_STATUS[error.kind].value[0], error.message, error.reason, error.retry_after_ms)
    incident = uuid.uuid4().hex[:12]
    _log.error("unexpected error, incident %s", incident, exc_info=error)
    return Failure(grpc.StatusCode.INTERNAL.value[0], f"internal error, incident {incident}", "INTERNAL")


def status_of(code: int) -> grpc.StatusCode:
    """The gRPC status of a number; UNKNOWN for a number that gRPC doesn't define."""
    return _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)


def trailers(failure: Failure) -> Trailers:
    """Trailing metadata of a failed call: details, and the pushback that gRPC clients obey on retries."""
    status = status_pb2.Status(code=failure.code, message=failure.message)
    _pack(status, error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN))
    if not failure.retry_after_ms:
        return (("grpc-status-details-bin", status.SerializeToString()),)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(failure.retry_after_ms)
    _pack(status, retry)
    pushback = ("grpc-retry-pushback-ms", str(failure.retry_after_ms))
    return (("grpc-status-details-bin", status.SerializeToString()), pushback)


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
