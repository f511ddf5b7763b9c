"""What a failed etcd call means: may it have been applied, and can another try help? Pure.

The texts are those of etcd 3.4 and 3.5 (api/v3rpc/rpctypes/error.go) and of gRPC's C core. A text that we don't know
falls back to the meaning of its status code, always towards "it may have been applied".
"""

from __future__ import annotations

from enum import Enum

from grpc import StatusCode


class Fault(Enum):
    """Why a call failed."""

    NOT_SENT = "no connection: surely not applied; try elsewhere"
    DOUBTFUL = "may have been applied or not; try elsewhere if a second application does no harm"
    STALE_TOKEN = "log in and try again; not applied"  # noqa: S105 - no password
    AUTH_OFF = "etcd asks for no login"
    FORBIDDEN = "wrong password, or not allowed"
    LEASE_GONE = "the lease does not exist"
    HISTORY_GONE = "the revision is compacted away, or in the future"
    REFUSED = "etcd will not do it"


# Text in the error's details -> meaning; looked at before the status code.
_BY_TEXT = (
    ("failed to connect to all addresses", Fault.NOT_SENT),
    ("invalid auth token", Fault.STALE_TOKEN),
    ("revision of auth store is old", Fault.STALE_TOKEN),
    ("user name is empty", Fault.STALE_TOKEN),
    ("authentication is not enabled", Fault.AUTH_OFF),
    ("authentication failed", Fault.FORBIDDEN),
    ("permission denied", Fault.FORBIDDEN),
    ("lease not found", Fault.LEASE_GONE),
    ("revision has been compacted", Fault.HISTORY_GONE),
    ("is a future revision", Fault.HISTORY_GONE),
    ("too many requests", Fault.DOUBTFUL),
)

_BY_CODE = {
    StatusCode.UNAVAILABLE: Fault.DOUBTFUL,
    StatusCode.DEADLINE_EXCEEDED: Fault.DOUBTFUL,
    StatusCode.CANCELLED: Fault.DOUBTFUL,
    StatusCode.INTERNAL: Fault.DOUBTFUL,
    StatusCode.UNKNOWN: Fault.DOUBTFUL,
    StatusCode.UNAUTHENTICATED: Fault.STALE_TOKEN,
    StatusCode.PERMISSION_DENIED: Fault.FORBIDDEN,
}


def classify(code: StatusCode, details: str) -> Fault:
    """The meaning of a failure, from gRPC's status code and text."""
    for text, fault in _BY_TEXT:
        if text in details:
            return fault
    return _BY_CODE.get(code, Fault.REFUSED)


def explain(details: str) -> str:
    """What may be shown of a failure's text: etcd's own words, nothing of a proxy or a library in between."""
    return details[:200] if details.startswith("etcdserver: ") else "no reason that can be shown"
