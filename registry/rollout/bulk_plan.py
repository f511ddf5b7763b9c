"""What a bulk rollout does, and in which order. Pure.

Contract: a plan says for each model from which version to which its alias goes; it is written once under the bulk id,
so that whoever runs that id again does the same. The order is by a hash of bulk id and model: random, so that a stage
is a fair sample of all tenants, and the same at every run. A stage of p percent is the first p percent of that order,
so each stage holds the one before it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from enum import Enum

import msgspec

from registry.errors import InvalidRequestError
from registry.manifest import FORMAT, AliasRecord, Manifest
from registry.model import ModelRef

DEFAULT_STAGES = (1.0, 10.0, 50.0, 100.0)


class Standing(Enum):
    """How far a move is. LOST: somebody else moved the alias."""

    OPEN = "open"
    DONE = "done"
    LOST = "lost"


class BulkMove(msgspec.Struct, frozen=True):
    """One alias's way; `before` is "" where the model has no such alias yet."""

    tenant: str
    model: str
    before: str
    after: str

    @property
    def ref(self) -> ModelRef:
        """Whose alias it is."""
        return ModelRef(self.tenant, self.model)


class BulkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that one bulk rollout is to do, in order."""

    bulk_id: str
    alias: str
    moves: tuple[BulkMove, ...]
    created_at: str
    nonce: str
    format: int = FORMAT


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions are meant; all conditions that are set must hold. `labels`, `training`: as manifests have them.
    `version`: that one; "" for the newest that matches and may be pointed at.
    """

    application: str = ""
    tenant: str = ""
    labels: dict[str, str] = {}
    training: dict[str, str] = {}
    version: str = ""

    def matches(self, manifest: Manifest) -> bool:
        """Whether a version is meant."""
        return (
            self.application in ("", manifest.application)
            and self.labels.items() <= manifest.labels.items()
            and self.training.items() <= manifest.training.items()
        )


def check_selection(selection: Selection) -> None:
    """Refuse to mean every model of every tenant, as that is more likely an omission than a wish."""
    if not (selection.application or selection.tenant or selection.labels or selection.training):
        raise InvalidRequestError("say which models: by application, tenant, labels or training")


def parse_conditions(what: str, conditions: Iterable[str]) -> dict[str, str]:
    """Conditions of the form "name=value". Raises InvalidRequestError."""
    parsed: dict[str, str] = {}
    for condition in conditions:
        name, equals, value = condition.partition("=")
        if not name or not equals or parsed.setdefault(name, value) != value:
            raise InvalidRequestError(f"{what} {condition[:140]!r} is not name=value, or contradicts another one")
    return parsed


def usable(record: AliasRecord, versions: Sequence[str]) -> list[str]:
    """The versions that an alias may point at, in the same order."""
    barred = {*record.retired, *record.deleted}
    return [version for version in versions if version not in barred]


def in_order(bulk_id: str, moves: Iterable[BulkMove]) -> tuple[BulkMove, ...]:
    """The moves in the order of this bulk rollout."""

    def rank(move: BulkMove) -> bytes:
        return hashlib.blake2b(f"{bulk_id}/{move.ref}".encode(), digest_size=16).digest()

    return tuple(sorted(moves, key=rank))


def check_stages(stages: Sequence[float]) -> tuple[float, ...]:
    """The percentages of the stages. Raises InvalidRequestError where they don't ascend from over 0 to at most 100."""
    ends = tuple(stages) or DEFAULT_STAGES
    if any(not low < high for low, high in zip((0.0, *ends), ends, strict=False)) or ends[-1] > 100:
        raise InvalidRequestError(f"stages are ascending percentages over 0 and at most 100, not {list(ends)}")
    return ends


def stage_slices(total: int, stages: Sequence[float]) -> list[slice]:
    """What each stage adds to the one before it: where in the order it begins and ends."""
    ends = [min(total, math.ceil(total * percent / 100)) for percent in stages]
    return [slice(low, high) for low, high in zip([0, *ends], ends, strict=False)]


def is_over(failed: int, stage_size: int, max_failed_ratio: float) -> bool:
    """Whether more of a stage's models have failed than may."""
    return failed > max_failed_ratio * stage_size


def standing(move: BulkMove, stored: str, indexed: str) -> Standing:
    """How far a move is, by what the alias means in object storage and in etcd, "" for nothing. A move that is stored
    but that etcd doesn't tell yet (who made it died in between) is open.
    """
    if stored == move.after:
        return Standing.DONE if indexed == move.after else Standing.OPEN
    return Standing.OPEN if stored == move.before else Standing.LOST
