"""Loads that failed, so that none is tried again and again: who asks meanwhile gets the same error at once. Pure.

Contract: a failure is remembered by package, for a time that doubles with each one that follows it without a success
between: one that lasts (a damaged file, one that its engine refuses) for 5 s up to 5 minutes, one that passes (a store
that doesn't answer) for a quarter of a second up to a second. What isn't the model's fault, such as no room for it,
isn't remembered. At most `CAPACITY` packages; those that failed longest ago are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import NamedTuple

from registry.errors import Kind, ScoreMeshError

CAPACITY = 20_000
_LASTING_S = (5.0, 300.0)
_PASSING_S = (0.25, 1.0)
_NOT_ITS_FAULT = frozenset({Kind.EXHAUSTED, Kind.DEADLINE, Kind.CANCELLED})


class _Failed(NamedTuple):
    """Of one package. `is_lasting`: the last failure was; `again_at`: when it may be tried again."""

    tenant: str
    kind: type[ScoreMeshError]
    message: str
    is_lasting: bool
    pause_s: float
    again_at: float


class FailedLoads:
    """See the module."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, _Failed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def add(self, package: str, tenant: str, error: Exception, now: float) -> None:
        """A load has failed. `tenant`: whose the version is."""
        kind, message = _shown(error)
        if kind.kind in _NOT_ITS_FAULT:
            return
        is_lasting = kind.kind is not Kind.UNAVAILABLE
        first_s, most_s = _LASTING_S if is_lasting else _PASSING_S
        before = self._failed.pop(package, None)
        repeats = before is not None and before.is_lasting is is_lasting
        pause_s = min(before.pause_s * 2, most_s) if before is not None and repeats else first_s
        self._failed[package] = _Failed(tenant, kind, message, is_lasting, pause_s, now + pause_s)
        if len(self._failed) > CAPACITY:
            self._failed.popitem(last=False)

    def find(self, package: str, now: float) -> ScoreMeshError | None:
        """What a load of the package would fail with, None where it may be tried: the same class and text as before,
        and in how many milliseconds it's tried again.
        """
        failed = self._failed.get(package)
        if failed is None or now >= failed.again_at:
            return None
        return failed.kind(failed.message, retry_after_ms=max(1, round((failed.again_at - now) * 1000)))

    def succeeded(self, package: str) -> None:
        """Forget what failed before."""
        self._failed.pop(package, None)

    def forget(self, tenant: str, packages: Container[str]) -> None:
        """Forget a tenant's failures, and those of these packages."""
        for package in [each for each, failed in self._failed.items() if failed.tenant == tenant or each in packages]:
            del self._failed[package]


def _shown(error: Exception) -> tuple[type[ScoreMeshError], str]:
    """What is said again. The text of an error from outside the tree may hold what isn't the caller's."""
    if isinstance(error, ScoreMeshError):
        return type(error), error.message
    return ScoreMeshError, "the model's load failed for a reason that isn't known; the scorer's log has it"
