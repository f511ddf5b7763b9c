"""The one place where failures become gRPC statuses.

A `Failure` is what travels: between the tiers inside a batch result, and to a caller as status, message and the
`google.rpc.Status` with `ErrorInfo` (and `RetryInfo` where a time is known) in `grpc-status-details-bin`.
"""

from __future__ import annotations

import logging
import uuid

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from registry.errors import Kind, ScoreMeshError
from registry.failure import Code, Failure

DOMAIN = "scoremesh"
_log = logging.getLogger(__name__)

_CODE = {
    Kind.NOT_FOUND: Code.NOT_FOUND,
    Kind.ALREADY_EXISTS: Code.ALREADY_EXISTS,
    Kind.INVALID: Code.INVALID_ARGUMENT,
    Kind.PRECONDITION: Code.FAILED_PRECONDITION,
    Kind.EXHAUSTED: Code.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: Code.DEADLINE_EXCEEDED,
    Kind.CANCELLED: Code.CANCELLED,
    Kind.CONFLICT: Code.ABORTED,
    Kind.UNAVAILABLE: Code.UNAVAILABLE,
    Kind.INTERNAL: Code.INTERNAL,
}
_BY_NUMBER = {status.value[0]: status for status in grpc.StatusCode}

Trailers = tuple[tuple[str, str | bytes], ...]


def failure_of(error: BaseException) -> Failure:
    """What a caller is told of an exception. One from outside the error tree is logged with an id, and the caller gets
    the id alone: its text may hold what isn't the caller's.
    """
    if isinstance(error, ScoreMeshError):
        return Failure(_CODE[error.kind], error.message, error.reason, error.retry_after_ms)
    incident = uuid.uuid4().hex[:12]
    _log.error("unexpected error, incident %s", incident, exc_info=error)
    return Failure(Code.INTERNAL, f"internal error, incident {incident}", "INTERNAL")


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
