"""Finding the models that a bulk rollout is about, by reading the newest manifests of every model in question."""

from __future__ import annotations

from collections.abc import Sequence

from registry.bounded import map_all
from registry.library import Library
from registry.manifest import AliasRecord, Manifest
from registry.model import ModelRef
from registry.rollout.bulk_plan import BulkMove, Selection, check_selection, usable

_READS_AT_ONCE = 64
_LOOK_BACK = 32


async def select(library: Library, selection: Selection, alias: str) -> list[BulkMove]:
    """The moves of an alias that are due: of each model the newest version that matches (among its newest 32) and that
    the alias doesn't mean yet.

    Raises:
        InvalidRequestError: the selection has no condition.
        StoreUnavailableError, ModelUnusableError: a manifest or record can't be read.
    """
    check_selection(selection)
    tenants = [selection.tenant] if selection.tenant else await library.list_tenants()
    models = await map_all(tenants, library.list_models, _READS_AT_ONCE)
    refs = [ModelRef(tenant, model) for tenant, names in zip(tenants, models, strict=True) for model in names]
    moves = await map_all(refs, lambda ref: _move_of(library, selection, alias, ref), _READS_AT_ONCE)
    return [move for move in moves if move is not None]


async def _move_of(library: Library, selection: Selection, alias: str, ref: ModelRef) -> BulkMove | None:
    record = await library.newest_aliases(ref)
    if record is None or record.gone:
        return None
    target = await _target(library, selection, ref, record)
    before = record.aliases.get(alias, "")
    if target is None or target.version == before:
        return None
    return BulkMove(ref.tenant, ref.model, before, target.version)


async def _target(library: Library, selection: Selection, ref: ModelRef, record: AliasRecord) -> Manifest | None:
    for version in await _candidates(library, selection, ref, record):
        manifest = await library.find_manifest(ref, version)
        if manifest is not None and selection.matches(manifest):
            return manifest
    return None


async def _candidates(library: Library, selection: Selection, ref: ModelRef, record: AliasRecord) -> Sequence[str]:
    if selection.version:
        return usable(record, [selection.version])
    return usable(record, (await library.list_versions(ref))[::-1])[:_LOOK_BACK]
