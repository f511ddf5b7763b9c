from __future__ import annotations

import pytest
from grpc import StatusCode

from registry.etcd_faults import Fault, classify, explain


@pytest.mark.parametrize(
    ("code", "details", "fault"),
    [
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: refused", Fault.NOT_SENT),
        (StatusCode.UNAVAILABLE, "Socket closed", Fault.DOUBTFUL),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Fault.DOUBTFUL),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Fault.DOUBTFUL),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Fault.DOUBTFUL),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Fault.REFUSED),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Fault.STALE_TOKEN),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Fault.STALE_TOKEN),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Fault.STALE_TOKEN),
        (
            StatusCode.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            Fault.FORBIDDEN,
        ),
        (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", Fault.AUTH_OFF),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Fault.LEASE_GONE),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Fault.HISTORY_GONE),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Fault.HISTORY_GONE),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", Fault.REFUSED),
    ],
)
def test_each_failure_has_its_meaning(code: StatusCode, details: str, fault: Fault) -> None:
    assert classify(code, details) is fault


def test_only_etcds_own_words_are_shown() -> None:
    assert explain("etcdserver: mvcc: database space exceeded") == "etcdserver: mvcc: database space exceeded"
    assert "secret" not in explain("proxy says: secret path")
