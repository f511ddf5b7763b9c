"""How failures become gRPC statuses."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from registry import errors
from registry.errors import ScoreMeshError
from registry.failure import Code, Failure
from registry.status import failure_of, status_of, trailers


def _every(kind: type[ScoreMeshError]) -> list[type[ScoreMeshError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _every(child))]


_PUBLIC = [kind for kind in _every(ScoreMeshError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", _PUBLIC)
def test_every_error_has_a_status_and_a_reason(kind: type[ScoreMeshError]) -> None:
    failure = failure_of(kind("what went wrong", retry_after_ms=7))
    assert failure == Failure(failure.code, "what went wrong", kind.reason, 7)
    assert status_of(failure.code) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    assert kind.reason == kind.reason.upper()


def test_reasons_are_unique() -> None:
    reasons = [kind.reason for kind in _PUBLIC]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.ModelNotFoundError, grpc.StatusCode.NOT_FOUND),
        (errors.InvalidFeaturesError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.DigestMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.DrainingError, grpc.StatusCode.UNAVAILABLE),
        (errors.EtcdUnavailableError, grpc.StatusCode.UNAVAILABLE),
        (errors.VersionExistsError, grpc.StatusCode.ALREADY_EXISTS),
        (errors.ConflictError, grpc.StatusCode.ABORTED),
    ],
)
def test_statuses(kind: type[ScoreMeshError], status: grpc.StatusCode) -> None:
    assert status_of(failure_of(kind("text")).code) is status


def test_an_unknown_error_shows_an_incident_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        failure = failure_of(KeyError("the password is 1234"))
    assert (failure.code, failure.reason) == (Code.INTERNAL, "INTERNAL")
    assert "1234" not in failure.message
    assert failure.message.rpartition(" ")[2] in caplog.text
    assert failure_of(KeyError()).message != failure.message, "each incident has an id of its own"


def test_trailers_carry_reason_and_retry_hint() -> None:
    sent = dict(trailers(Failure(8, "voll: ä", "OVERLOADED", 1234)))
    packed = sent["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status = Status.FromString(packed)
    assert (status.code, status.message) == (8, "voll: ä")
    info, retry = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain, retry.retry_delay.ToMilliseconds()) == ("OVERLOADED", "scoremesh", 1234)
    assert sent["grpc-retry-pushback-ms"] == "1234"
    assert list(dict(trailers(Failure(5, "none", "MODEL_NOT_FOUND")))) == ["grpc-status-details-bin"]


def test_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}
    assert status_of(99) is grpc.StatusCode.UNKNOWN
