"""Where the plans of bulk rollouts are kept, and how a tenant is taken out of them.

Contract: a plan is created once. Only the deletion of a tenant makes the next one, without the tenant's moves, as
`bulk/<id>/<revision>.json`; what came before it is deleted after that, so that a plan is never missing. The greatest
revision holds; `bulk/<id>/plan.json` counts as 0. A rollout that is being carried out goes on: it reads its plan only
at the start.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec

from registry import layout
from registry.artifacts import ArtifactStore
from registry.errors import ModelUnusableError, ObjectMissingError
from registry.manifest import decode, encode
from registry.rollout.bulk_plan import BulkPlan

_log = logging.getLogger(__name__)


async def create_plan(store: ArtifactStore, plan: BulkPlan) -> bool:
    """Store a new plan; False when there is one of its bulk id."""
    return await store.create(layout.bulk_plan_path(plan.bulk_id), encode(plan))


async def newest_plan(store: ArtifactStore, bulk_id: str) -> BulkPlan | None:
    """The plan of a bulk id, or None where there is none. Raises ModelUnusableError for a damaged one."""
    folder = layout.bulk_plan_path(bulk_id).rpartition("/")[0]
    while paths := await _paths(store, folder):
        with contextlib.suppress(ObjectMissingError):  # A newer one has taken its place.
            return decode(BulkPlan, await store.get(paths[-1]), paths[-1])
    return None


async def forget_tenant(store: ArtifactStore, tenant: str) -> dict[str, int]:
    """Take a tenant's moves out of all plans; a damaged plan stays, with a line in the log. Returns the paths of what
    was deleted, with sizes in bytes.
    """
    gone: dict[str, int] = {}
    for bulk_id in await store.list_folders(layout.BULK):
        gone |= await _forget_in(store, f"{layout.BULK}/{bulk_id}", tenant)
    return gone


async def _forget_in(store: ArtifactStore, folder: str, tenant: str) -> dict[str, int]:
    while paths := await _paths(store, folder):
        try:
            plan = decode(BulkPlan, await store.get(paths[-1]), paths[-1])
        except ObjectMissingError:
            continue  # A newer one has taken its place.
        except ModelUnusableError as error:
            _log.warning("%s; the deletion of tenant %s goes on without it", error.message, tenant)
            return {}
        others = tuple(move for move in plan.moves if move.tenant != tenant)
        if len(others) == len(plan.moves):
            return await _delete(store, paths[:-1])
        wanted = msgspec.structs.replace(plan, moves=others)
        if await store.create(layout.record_path(folder, _revision(paths[-1]) + 1), encode(wanted)):
            return await _delete(store, paths)
    return {}


async def _paths(store: ArtifactStore, folder: str) -> list[str]:
    """The plans in a bulk rollout's folder, the one that holds last."""
    paths = [f"{folder}/{name}" for name in await store.list_names(folder)]
    return sorted((path for path in paths if _revision(path) >= 0), key=_revision)


def _revision(path: str) -> int:
    """-1 for what isn't a plan."""
    name = path.rpartition("/")[2]
    return 0 if name == "plan.json" else layout.revision_of(name) or -1


async def _delete(store: ArtifactStore, paths: list[str]) -> dict[str, int]:
    found = zip(paths, await store.get_many(paths), strict=True)
    gone = {path: len(data) for path, data in found if data is not None}
    await store.delete_many(gone)
    return gone
