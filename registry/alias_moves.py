"""Moves of aliases that no request feels: an alias means a new version only when that is in memory wherever the old is.

Contract: a move that would be refused is refused before any scorer loads something for it. Then it prepares for the
record that holds, and changes it on the condition that it still is the one that was prepared for; when somebody else
moved the alias meanwhile, it begins anew (or refuses, where the caller said what it expects). Preparation failing
leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from registry.change import Checked, begin_rollout, end_rollout, point, published, remove_alias, roll_back_target
from registry.errors import ConflictError
from registry.ledger import Ledger
from registry.library import no_model
from registry.manifest import AliasRecord, RolloutSpec
from registry.model import ModelRef, ModelVersion
from registry.next_record import ANY, Change, Condition, is_made, next_record, publication

# Loads the last argument's versions wherever one of the first's is in memory. Raises NotPreparedError.
Prepare = Callable[[ModelRef, Sequence[ModelVersion], Sequence[ModelVersion]], Awaitable[None]]


async def no_preparation(_ref: ModelRef, _old: Sequence[ModelVersion], _new: Sequence[ModelVersion]) -> None:
    """For a cluster without scorers, and for whoever accepts cold requests."""


class AliasMoves:
    """See the module. Every method raises what `Ledger.change` raises, ConflictError where the tenant is being deleted,
    and NotPreparedError.
    """

    def __init__(self, ledger: Ledger, prepare: Prepare = no_preparation) -> None:
        self._ledger = ledger
        self._prepare = prepare

    async def publish(
        self,
        ref: ModelRef,
        version: ModelVersion,
        aliases: Sequence[str],
        condition: Condition,
        facts: Mapping[str, str],
        record: AliasRecord | None = None,
        checked: Checked | None = None,
    ) -> AliasRecord:
        """Tell that a version is there, and point `aliases` at it; `facts` and `checked` as for
        `registry.change.published`. `record`: the one that holds, where the caller has just read it.
        """
        change = published(ref, version, aliases, condition.request_id, checked, **facts)
        condition = condition._replace(what=publication(version.version, aliases))
        return await self._move(ref, dict.fromkeys(aliases, version), change, condition, record)

    async def point(
        self, ref: ModelRef, alias: str, version: str, condition: Condition = ANY, *, expected: str | None = None
    ) -> AliasRecord:
        """Point an alias at a published version; with `expected` only if it means that version until now, "" for an
        alias that must be new. Raises ModelNotFoundError, ModelInUseError for a retired one, ConflictError.
        """
        target = await self._version(ref, version)
        change = point(ref, {alias: target}, None if expected is None else {alias: expected})
        condition = condition._replace(what=f"alias {alias} to version {version}")
        return await self._move(ref, {alias: target}, change, condition)

    async def roll_back(
        self, ref: ModelRef, alias: str, condition: Condition = ANY, *, expected: str | None = None
    ) -> AliasRecord:
        """Point an alias at the version that it meant before its last move. With `expected` only if it means that
        version until now; without it, what it means at the beginning of the call is expected.
        """
        condition = condition._replace(what=f"alias {alias} rolled back")
        while True:
            record = await self._record(ref)
            if is_made(record, condition):
                # Made already; but who made it may have died before etcd was told.
                return await self._ledger.change(ref, lambda current: current, condition, done="it")
            at = record.aliases.get(alias, "")
            expected = at if expected is None else expected
            if at != expected:
                raise ConflictError(f"alias {alias} of model {ref} is at {at or 'nothing'}, not {expected}")
            target = await self._version(ref, roll_back_target(ref, record, alias))
            change = _if_newest(record, point(ref, {alias: target}))
            try:
                return await self._move(ref, {alias: target}, change, condition, record)
            except _MovedError:
                continue  # The model was changed meanwhile, and what the alias meant before may be another version now.

    async def remove(
        self, ref: ModelRef, alias: str, condition: Condition = ANY, *, expected: str | None = None
    ) -> AliasRecord:
        """Take an alias away; one that isn't there is as good as removed."""
        change = remove_alias(ref, alias, expected)
        condition = condition._replace(what=f"alias {alias} removed")
        record = await self._ledger.record(ref)
        return await self._ledger.change(ref, change, condition, done=f"alias {alias} of model {ref}", record=record)

    async def begin(self, ref: ModelRef, alias: str, spec: RolloutSpec, condition: Condition = ANY) -> AliasRecord:
        """Run a canary or a shadow beside an alias, loaded before the first request is split."""
        condition = condition._replace(what=_shown(alias, spec))
        beside = [await self._version(ref, name) for name in (spec.canary, spec.shadow) if name]
        while True:
            record = await self._record(ref)
            at = record.aliases.get(alias, "")
            change = begin_rollout(ref, alias, spec, beside, at)
            if next_record(record, change, condition, now="", nonce="") is not record:
                await self._prepare(ref, [record.versions[at]], beside)
            try:
                return await self._ledger.change(ref, change, condition, done=f"rollout {spec.id}", record=record)
            except ConflictError:
                continue  # The alias was moved meanwhile: prepare for what it means now.

    async def end(
        self, ref: ModelRef, alias: str, condition: Condition = ANY, *, promote: bool, rollout_id: str = ""
    ) -> AliasRecord:
        """End what runs beside an alias: back to its version alone, or with `promote` on to the canary (or shadow)."""
        change = end_rollout(ref, alias, promote=promote, rollout_id=rollout_id)
        condition = condition._replace(what=f"rollout beside alias {alias} {'promoted' if promote else 'ended'}")
        if not promote:
            record = await self._ledger.record(ref)
            return await self._ledger.change(ref, change, condition, done=f"the rollout's end of {ref}", record=record)
        record = await self._record(ref)
        spec = record.rollouts.get(alias)
        targets = {alias: record.versions[spec.canary or spec.shadow]} if spec is not None else {}
        return await self._move(ref, targets, change, condition, record)

    async def _move(
        self,
        ref: ModelRef,
        targets: Mapping[str, ModelVersion],
        change: Change,
        condition: Condition,
        record: AliasRecord | None = None,
    ) -> AliasRecord:
        while True:
            record = record or await self._ledger.record(ref)
            known = {alias: record.aliases.get(alias, "") for alias in targets}
            move = _if_at(known, change)
            is_new = next_record(record, move, condition, now="", nonce="") is not record
            olds = [
                record.versions[known[alias]] for alias, to in targets.items() if known[alias] not in ("", to.version)
            ]
            if olds and is_new:
                await self._prepare(ref, olds, list({to.version: to for to in targets.values()}.values()))
            try:
                done = f"version {', '.join({to.version for to in targets.values()})} of model {ref}"
                return await self._ledger.change(ref, move, condition, done=done, record=record)
            except _MovedError:
                record = None

    async def _record(self, ref: ModelRef) -> AliasRecord:
        record = await self._ledger.record(ref)
        if not record.revision or record.gone:
            raise no_model(ref)
        return record

    async def _version(self, ref: ModelRef, version: str) -> ModelVersion:
        return (await self._ledger.library.read_manifest(ref, version)).to_version()


def _shown(alias: str, spec: RolloutSpec) -> str:
    canary = f"canary {spec.canary} at {spec.percent:g} %" if spec.canary else "no canary"
    return f"{canary} and {f'shadow {spec.shadow}' if spec.shadow else 'no shadow'} beside alias {alias}"


class _MovedError(ConflictError):
    """An alias, or the model, isn't as it was found."""


def _if_at(known: Mapping[str, str], change: Change) -> Change:
    """The change, where the aliases are still at the versions that were prepared for."""

    def conditional(record: AliasRecord) -> AliasRecord:
        if any(record.aliases.get(alias, "") != version for alias, version in known.items()):
            raise _MovedError("an alias was moved meanwhile")
        return change(record)

    return conditional


def _if_newest(known: AliasRecord, change: Change) -> Change:
    """The change, where the record that was read still holds; not even what is there already counts as made else."""

    def conditional(record: AliasRecord) -> AliasRecord:
        if record.revision != known.revision:
            raise _MovedError("the model was changed meanwhile")
        return change(record)

    return conditional
