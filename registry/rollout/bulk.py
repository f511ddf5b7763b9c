"""Moving an alias of thousands of models, stage by stage.

Contract: what is to be done is decided once and stored under the bulk id (`registry.rollout.bulk_plan`), before the
first alias moves. Running the same id again, after a kill at any moment or with other stages, goes on: a model that
is at its target in object storage and in etcd is done, one that somebody else moved meanwhile counts as failed and is
left alone. Each model is prepared before its alias moves, in batches. When more of a stage's models fail than may, it
stops there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NamedTuple

from registry.bounded import map_all
from registry.change import point
from registry.errors import ConflictError, RolloutStoppedError, ScoreMeshError
from registry.ledger import Ledger, decoded, new_nonce, utc_now
from registry.model import LIVE, ModelRecord, ModelRef, ModelVersion, check_name
from registry.rollout.bulk_plan import (
    BulkMove,
    BulkPlan,
    Selection,
    Standing,
    check_stages,
    in_order,
    is_over,
    stage_slices,
    standing,
)
from registry.rollout.bulk_select import select
from registry.rollout.plan_store import create_plan, newest_plan
from registry.rollout.prepare import Preparation

# Prepares several models, and says why for each that isn't prepared; `Preparer.prepare_many`.
PrepareMany = Callable[[Sequence[Preparation]], Awaitable[dict[ModelRef, str]]]
_BATCH = 50
_MOVES_AT_ONCE = 16


async def no_preparations(_preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
    """For a cluster without scorers, and for whoever accepts cold requests."""
    return {}


class BulkRequest(NamedTuple):
    """What is wanted. `stages`: ascending percentages of the models; none: 1, 10, 50, 100. `pause_s`: between two
    stages. `max_failed_ratio`: of a stage's models that may fail. `bulk_id`: "" for a new plan; one that has a plan
    goes by it, and `selection` is not looked at. `dry_run`: say what would be done.
    """

    selection: Selection = Selection()
    alias: str = LIVE
    stages: Sequence[float] = ()
    pause_s: float = 0.0
    max_failed_ratio: float = 0.0
    bulk_id: str = ""
    dry_run: bool = False


class BulkStep(NamedTuple):
    """How far it is. `stage`: counted from 1, 0 before the first. `model`: of this step, with why it failed; in a dry
    run it would be moved in this stage.
    """

    bulk_id: str
    stage: int
    done: int
    failed: int
    total: int
    model: ModelRef | None = None
    failure: str = ""


class Bulk:
    """See the module. Holds no task of its own."""

    def __init__(self, ledger: Ledger, prepare_many: PrepareMany = no_preparations) -> None:
        self._ledger = ledger
        self._prepare_many = prepare_many

    async def run(self, request: BulkRequest) -> AsyncGenerator[BulkStep, None]:
        """Carry it out: a step at first, then one for each model. Close the generator; the batch of models that is
        under way (50 at most) is then finished first, or ends where it is when cancelled.

        Raises:
            InvalidRequestError: stages, bulk id or selection can't be right.
            ConflictError: the bulk id is another alias's.
            RolloutStoppedError: too many of a stage's models failed.
            StoreUnavailableError, ModelUnusableError: the plan can't be made or stored.
        """
        stages = check_stages(request.stages)
        plan = await self._plan(request)
        step = BulkStep(plan.bulk_id, 0, 0, 0, len(plan.moves))
        yield step
        moved = False
        for number, part in enumerate(stage_slices(len(plan.moves), stages), 1):
            if moved:
                await asyncio.sleep(request.pause_s)
            step, moved = step._replace(stage=number), False
            moves = plan.moves[part]
            failed = 0
            for first in range(0, len(moves), _BATCH):
                for outcome in await self._carry_out(plan.alias, moves[first : first + _BATCH], request.dry_run):
                    moved, failed = moved or outcome.moved, failed + bool(outcome.failure)
                    step = _after(step, outcome)
                    yield step
                if is_over(failed, len(moves), request.max_failed_ratio):
                    raise RolloutStoppedError(_stopped(step, stages[number - 1], failed, len(moves)))

    async def _plan(self, request: BulkRequest) -> BulkPlan:
        """The stored plan of the bulk id, else a new one, which a dry run doesn't store."""
        bulk_id = request.bulk_id or new_nonce()
        store = self._ledger.library.store
        found = await newest_plan(store, bulk_id) if request.bulk_id else None
        if found is None:
            moves = await select(self._ledger.library, request.selection, check_name("alias", request.alias))
            wanted = BulkPlan(
                bulk_id=bulk_id,
                alias=request.alias,
                moves=in_order(bulk_id, moves),
                created_at=utc_now(),
                nonce=new_nonce(),
            )
            if request.dry_run or await create_plan(store, wanted):
                return wanted
            found = await newest_plan(store, bulk_id) or wanted
        if found.alias != request.alias:
            raise ConflictError(f"bulk rollout {bulk_id} is about alias {found.alias}, not {request.alias}")
        return found

    async def _carry_out(self, alias: str, moves: Sequence[BulkMove], dry_run: bool) -> list[_Outcome]:
        if dry_run:
            return [_Outcome(move.ref) for move in moves]
        looks = await map_all(moves, lambda move: self._look(alias, move), _MOVES_AT_ONCE)
        todo = [look for look in looks if isinstance(look, _Todo)]
        unprepared = await self._prepare([look for look in todo if look.old])
        return await map_all(looks, lambda look: self._move(alias, look, unprepared), _MOVES_AT_ONCE)

    async def _look(self, alias: str, move: BulkMove) -> _Todo | _Outcome:
        """How a model stands: done, failed, or what is to be done."""
        try:
            record = await self._ledger.record(move.ref)
            _, kv = await self._ledger.etcd.get(self._ledger.keys.model(move.ref))
            entry = decoded(ModelRecord, kv)
            indexed = entry.aliases.get(alias) if entry is not None else None
            stored = record.aliases.get(alias, "")
            stands = standing(move, stored, indexed.version if indexed is not None else "")
            if stands is Standing.DONE:
                return _Outcome(move.ref)
            if stands is Standing.LOST:
                at, before = stored or "nothing", move.before or "nothing"
                return _Outcome(move.ref, f"alias {alias} is at {at}, not {before}: somebody else moved it")
            new = (await self._ledger.library.read_manifest(move.ref, move.after)).to_version()
        except ScoreMeshError as error:
            return _Outcome(move.ref, error.message)
        known = {it.version: it for it in (indexed, record.versions.get(stored)) if it is not None}
        return _Todo(move, [it for it in known.values() if it.version != move.after], new)

    async def _prepare(self, todo: Sequence[_Todo]) -> dict[ModelRef, str]:
        try:
            return await self._prepare_many([Preparation(it.move.ref, it.old, [it.new]) for it in todo])
        except ScoreMeshError as error:
            return {it.move.ref: error.message for it in todo}

    async def _move(self, alias: str, look: _Todo | _Outcome, unprepared: dict[ModelRef, str]) -> _Outcome:
        if isinstance(look, _Outcome):
            return look
        ref, before = look.move.ref, look.move.before
        if ref in unprepared:
            return _Outcome(ref, unprepared[ref])
        try:
            # Where it is stored already this only tells etcd, as the move's author died before he could.
            await self._ledger.change(ref, point(ref, {alias: look.new}, {alias: before}), done=f"alias {alias}")
        except ScoreMeshError as error:
            return _Outcome(ref, error.message)
        return _Outcome(ref, moved=True)


class _Todo(NamedTuple):
    """A move that is open. `old`: what scorers may have in memory because of the alias."""

    move: BulkMove
    old: Sequence[ModelVersion]
    new: ModelVersion


class _Outcome(NamedTuple):
    """What came of a move; `moved`: in this run."""

    ref: ModelRef
    failure: str = ""
    moved: bool = False


def _after(step: BulkStep, outcome: _Outcome) -> BulkStep:
    failed = bool(outcome.failure)
    return step._replace(
        done=step.done + (not failed), failed=step.failed + failed, model=outcome.ref, failure=outcome.failure
    )


def _stopped(step: BulkStep, percent: float, failed: int, size: int) -> str:
    return (
        f"stopped in stage {step.stage} ({percent:g} %): {failed} of its {size} models failed; {step.done} of "
        f"{step.total} are at their version. Run bulk rollout {step.bulk_id} again to go on, or roll back"
    )
