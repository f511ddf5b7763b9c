"""The error tree of the whole project.

Contract: every failure that a caller may see is a `ScoreMeshError` with a `Kind` (what sort of failure, free of any
transport), a stable `reason` (a word for programs, never renamed) and a message for a person. `registry.status` alone
turns kinds into gRPC statuses. An exception from outside this tree is a bug and is shown as INTERNAL without its text.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Kind(Enum):
    """What sort of failure it is; decides the status and whether a retry elsewhere can help."""

    NOT_FOUND = "not found"
    ALREADY_EXISTS = "already exists"
    INVALID = "invalid"
    PRECONDITION = "precondition"
    EXHAUSTED = "exhausted"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ScoreMeshError(Exception):
    """Root of the tree. `retry_after_ms` is a hint: after this time a retry may succeed; 0 means unknown."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class ModelNotFoundError(ScoreMeshError):
    """No such tenant, model, version or alias, or it belongs to somebody else."""

    kind = Kind.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class VersionExistsError(ScoreMeshError):
    """A version is immutable: it can't be published twice with different content."""

    kind = Kind.ALREADY_EXISTS
    reason = "VERSION_EXISTS"


class InvalidRequestError(ScoreMeshError):
    """The request can't be understood: garbage bytes, a missing field, a bad name."""

    kind = Kind.INVALID
    reason = "INVALID_REQUEST"


class InvalidFeaturesError(InvalidRequestError):
    """The request is well formed but its features don't fit the model."""

    reason = "INVALID_FEATURES"


class ArtifactRejectedError(ScoreMeshError):
    """A file offered for publishing isn't a model that a scorer may load."""

    kind = Kind.INVALID
    reason = "ARTIFACT_REJECTED"


class ModelUnusableError(ScoreMeshError):
    """A published model can't be loaded, and trying again will not help."""

    kind = Kind.PRECONDITION
    reason = "MODEL_UNUSABLE"


class NotExplainableError(ScoreMeshError):
    """The version answers, but can't tell what its inputs add to a score; the text says why."""

    kind = Kind.PRECONDITION
    reason = "NOT_EXPLAINABLE"


class ModelInUseError(ScoreMeshError):
    """What should go is still pointed at, or what should be pointed at is retired; the text lists by what."""

    kind = Kind.PRECONDITION
    reason = "MODEL_IN_USE"


class ContractBrokenError(ScoreMeshError):
    """A version's schema breaks the contract of its model or application; the text shows each difference."""

    kind = Kind.PRECONDITION
    reason = "CONTRACT_BROKEN"


class NotPreparedError(ScoreMeshError):
    """Scorers that have the old version in memory couldn't load the new one, so nothing was switched."""

    kind = Kind.PRECONDITION
    reason = "NOT_PREPARED"


class NotFoundError(ScoreMeshError):
    """No such tenant, application or quarantine."""

    kind = Kind.NOT_FOUND
    reason = "NOT_FOUND"


class DigestMismatchError(ModelUnusableError):
    """The stored bytes aren't those that were published."""

    reason = "DIGEST_MISMATCH"


class MessageTooLargeError(ScoreMeshError):
    """A message is over the size limit."""

    kind = Kind.EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class OverloadedError(ScoreMeshError):
    """A bounded queue or the memory budget is full."""

    kind = Kind.EXHAUSTED
    reason = "OVERLOADED"


class DeadlineError(ScoreMeshError):
    """The time of the request is over."""

    kind = Kind.DEADLINE
    reason = "DEADLINE_EXCEEDED"


class CancelledError(ScoreMeshError):
    """The caller went away."""

    kind = Kind.CANCELLED
    reason = "CANCELLED"


class ConflictError(ScoreMeshError):
    """Somebody else changed the same record first; read it again and decide anew."""

    kind = Kind.CONFLICT
    reason = "CONFLICT"


class UnavailableError(ScoreMeshError):
    """The server that was asked can't answer now; another one may."""

    kind = Kind.UNAVAILABLE
    reason = "UNAVAILABLE"


class NoScorerError(UnavailableError):
    """No member is alive that could score the model."""

    reason = "NO_SCORER"


class DrainingError(UnavailableError):
    """The server that was asked is shutting down and takes no new work."""

    reason = "DRAINING"


class EtcdUnavailableError(UnavailableError):
    """No etcd endpoint answered."""

    reason = "ETCD_UNAVAILABLE"


class StoreUnavailableError(UnavailableError):
    """Object storage did not answer."""

    reason = "STORE_UNAVAILABLE"


class ObjectMissingError(ModelUnusableError):
    """Object storage answered that there is no object under the path."""

    reason = "OBJECT_MISSING"


class EtcdRefusedError(ScoreMeshError):
    """etcd answered, and will not do what it was asked for; the same request will not fare better."""

    kind = Kind.PRECONDITION
    reason = "ETCD_REFUSED"


class EtcdAuthError(EtcdRefusedError):
    """etcd does not accept the user, the password or what the user wants to do."""

    reason = "ETCD_AUTH"


class EtcdLeaseLostError(EtcdRefusedError):
    """The lease that a key should hang on is gone."""

    reason = "ETCD_LEASE_LOST"


class EtcdHistoryGoneError(EtcdRefusedError):
    """The revision asked for is not in the store: compacted away, or the store began anew."""

    reason = "ETCD_HISTORY_GONE"


class TenantExistsError(ScoreMeshError):
    """A tenant has settings already."""

    kind = Kind.ALREADY_EXISTS
    reason = "TENANT_EXISTS"


class RolloutStoppedError(ScoreMeshError):
    """A bulk rollout stopped, since too many of its models failed to move."""

    kind = Kind.PRECONDITION
    reason = "ROLLOUT_STOPPED"


class AdmissionUnavailableError(UnavailableError):
    """No model can be tried now: the program that does it doesn't start, or is ended from outside."""

    reason = "ADMISSION_UNAVAILABLE"


class QuarantinedError(ModelUnusableError):
    """The model was being loaded or scored when scorers crashed, so none may load it for now; the text says why."""

    reason = "QUARANTINED"


class TooSlowError(DeadlineError):
    """The deadline can't cover the load that the model needs first; the load goes on."""

    reason = "DEADLINE_TOO_SHORT"


class LoadQueueFullError(OverloadedError):
    """Too many loads of the tenant, or of all, wait before this one for it to be in time; it goes on."""

    reason = "LOAD_QUEUE_FULL"
