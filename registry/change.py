"""What each change makes of a model's record. Pure: takes the record that holds, gives the next one or refuses.

Contract: see `registry.next_record`. Invariants of every record made by one of these and `next_record`: each alias and
rollout points at a version that `versions` has and that is neither retired nor deleted; `versions` has nothing else; a
rollout's alias exists; names in `deleted` are never taken out, as a version's name means one content for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from registry.errors import ConflictError, InvalidRequestError, ModelInUseError, ModelNotFoundError
from registry.manifest import AliasRecord, RolloutSpec
from registry.model import ModelRef, ModelVersion
from registry.next_record import Change

_V = TypeVar("_V")
_replace = msgspec.structs.replace


class Checked(NamedTuple):
    """What a version was checked against, as the model's record had it: digest of the contract, and application."""

    contract: str
    application: str


UNCHECKED = Checked("unchecked", "unchecked")  # No record has these: a digest is hexadecimal.


class UncheckedError(ConflictError):
    """The record has another contract or application than the version was checked against."""


def point(ref: ModelRef, targets: Mapping[str, ModelVersion], expected: Mapping[str, str] | None = None) -> Change:
    """Point each alias at a version. With `expected` only if the aliases there mean those versions until now, "" for
    one that must be new. A rollout beside an alias that moves ends, since what it was compared with is gone.
    """

    def change(record: AliasRecord) -> AliasRecord:
        moved = {alias: to for alias, to in targets.items() if record.aliases.get(alias) != to.version}
        if not moved and not record.gone:
            return record
        _check_expected(ref, record.aliases, expected or {})
        for version in moved.values():
            _check_usable(ref, record, version.version)
        return _replace(
            record,
            gone=False,
            aliases=record.aliases | {alias: version.version for alias, version in moved.items()},
            before=record.before | {alias: record.aliases[alias] for alias in moved if alias in record.aliases},
            rollouts=_without(record.rollouts, moved),
            versions=record.versions | {version.version: version for version in moved.values()},
        )

    return change


def published(
    ref: ModelRef,
    version: ModelVersion,
    aliases: Iterable[str],
    request_id: str,
    checked: Checked | None = None,
    **facts: str,
) -> Change:
    """Tell that a version is there, and point aliases at it. `facts`: `application`, `contract` where they change.
    `checked`: refused with UncheckedError where the record has others. A new record also without an alias: its arrival
    tells scorers that what they looked for in vain may be there.
    """
    targets = dict.fromkeys(aliases, version)
    move = point(ref, targets)

    def change(record: AliasRecord) -> AliasRecord:
        if version.version in record.deleted:
            raise ConflictError(f"version {version.version} of model {ref} was deleted; its name is not used again")
        is_there = bool(targets) and all(record.aliases.get(alias) == version.version for alias in targets)
        is_told = not request_id and all(getattr(record, name) == value for name, value in facts.items())
        if is_there and is_told:
            return record
        if checked is not None and checked != (record.contract, record.application):
            raise UncheckedError(f"the contract or the application of model {ref} was changed meanwhile")
        return _replace(move(record), gone=False, **facts)

    return change


def remove_alias(ref: ModelRef, alias: str, expected: str | None = None) -> Change:
    """Take an alias away, with what runs beside it."""

    def change(record: AliasRecord) -> AliasRecord:
        if alias not in record.aliases:
            return record
        _check_expected(ref, record.aliases, {} if expected is None else {alias: expected})
        return _replace(
            record,
            aliases=_without(record.aliases, (alias,)),
            before=_without(record.before, (alias,)),
            rollouts=_without(record.rollouts, (alias,)),
        )

    return change


def begin_rollout(
    ref: ModelRef, alias: str, spec: RolloutSpec, beside: Iterable[ModelVersion], expected: str | None = None
) -> Change:
    """Run `beside` (the canary and the shadow that `spec` names) beside an alias; replaces what ran there. With
    `expected` only if the alias means that version until now: the one that it was prepared for.
    """
    versions = {version.version: version for version in beside}
    if not versions:
        raise InvalidRequestError(f"a rollout beside alias {alias} of model {ref} needs a canary or a shadow")

    def change(record: AliasRecord) -> AliasRecord:
        _check_alias(ref, record, alias)
        _check_expected(ref, record.aliases, {} if expected is None else {alias: expected})
        if record.rollouts.get(alias) == spec:
            return record
        for name in versions:
            _check_usable(ref, record, name)
            if record.aliases[alias] == name:
                raise InvalidRequestError(f"alias {alias} of model {ref} means version {name} already")
        return _replace(record, rollouts=record.rollouts | {alias: spec}, versions=record.versions | versions)

    return change


def end_rollout(ref: ModelRef, alias: str, *, promote: bool, rollout_id: str = "") -> Change:
    """End what runs beside an alias: with `promote` its canary (or shadow) becomes the alias's version. With
    `rollout_id` only that rollout: one that has ended, or was followed by another, is left alone.
    """

    def change(record: AliasRecord) -> AliasRecord:
        spec = record.rollouts.get(alias)
        if spec is None or (rollout_id and spec.id != rollout_id):
            if rollout_id:
                return record
            raise ModelNotFoundError(f"alias {alias} of model {ref} has no rollout")
        ended = _replace(record, rollouts=_without(record.rollouts, (alias,)))
        if not promote:
            return ended
        return point(ref, {alias: record.versions[spec.canary or spec.shadow]})(ended)

    return change


def retire(ref: ModelRef, version: str) -> Change:
    """Nothing may mean this version any more. Refused while an alias or rollout does."""

    def change(record: AliasRecord) -> AliasRecord:
        if version in record.retired or version in record.deleted:
            return record
        _check_unused(ref, record, version, "retired")
        return _replace(record, retired=(*record.retired, version), before=_not_before(record, version))

    return change


def delete_version(ref: ModelRef, version: str) -> Change:
    """Mark a version as deleted, before its objects go. Refused while an alias or rollout means it."""

    def change(record: AliasRecord) -> AliasRecord:
        if version in record.deleted:
            return record
        _check_unused(ref, record, version, "deleted")
        return _replace(
            record,
            deleted=(*record.deleted, version),
            retired=tuple(name for name in record.retired if name != version),
            before=_not_before(record, version),
            requests=tuple(each for each in record.requests if not each[1].startswith(f"version {version} ")),
        )

    return change


def delete_model(versions: Iterable[str]) -> Change:
    """Mark a model and all its versions as deleted, before its objects go. What its requests came to is gone too."""

    def change(record: AliasRecord) -> AliasRecord:
        names = tuple(name for name in versions if name not in record.deleted)
        if record.gone and not names:
            return record
        return AliasRecord(
            revision=record.revision,
            aliases={},
            deleted=(*record.deleted, *names),
            gone=True,
            created_at="",
            nonce="",
        )

    return change


def pointers(record: AliasRecord, version: str) -> list[str]:
    """What points at a version, as text for people: "alias live", "canary of alias live"."""
    found = [f"alias {alias}" for alias, name in sorted(record.aliases.items()) if name == version]
    for alias, spec in sorted(record.rollouts.items()):
        found += [f"canary of alias {alias}"] if spec.canary == version else []
        found += [f"shadow of alias {alias}"] if spec.shadow == version else []
    return found


def roll_back_target(ref: ModelRef, record: AliasRecord, alias: str) -> str:
    """The version that an alias meant before its last move. Raises ModelNotFoundError where there is none to go to."""
    _check_alias(ref, record, alias)
    version = record.before.get(alias)
    if version is None:
        raise ModelNotFoundError(f"alias {alias} of model {ref} has no version to go back to")
    return version


def _without(mapping: Mapping[str, _V], names: Iterable[str]) -> dict[str, _V]:
    gone = set(names)
    return {name: value for name, value in mapping.items() if name not in gone}


def _not_before(record: AliasRecord, version: str) -> dict[str, str]:
    return {alias: name for alias, name in record.before.items() if name != version}


def _check_alias(ref: ModelRef, record: AliasRecord, alias: str) -> None:
    if alias not in record.aliases:
        raise ModelNotFoundError(f"model {ref} has no alias {alias!r}")


def _check_usable(ref: ModelRef, record: AliasRecord, version: str) -> None:
    if version in record.deleted:
        raise ModelNotFoundError(f"version {version} of model {ref} was deleted")
    if version in record.retired:
        raise ModelInUseError(f"version {version} of model {ref} is retired: nothing may point at it any more")


def _check_unused(ref: ModelRef, record: AliasRecord, version: str, what: str) -> None:
    users = pointers(record, version)
    if users:
        raise ModelInUseError(f"version {version} of model {ref} can't be {what}: {', '.join(users)} points at it")


def _check_expected(ref: ModelRef, aliases: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for alias, version in expected.items():
        actual = aliases.get(alias, "")
        if actual != version:
            raise ConflictError(f"alias {alias} of model {ref} is at {actual or 'nothing'}, not {version or 'nothing'}")
