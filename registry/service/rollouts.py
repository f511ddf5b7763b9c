"""The methods about rollouts: of one model, and of many."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec

from registry.alias_moves import AliasMoves
from registry.errors import ModelNotFoundError
from registry.ledger import Ledger, utc_now
from registry.manifest import AliasRecord, RolloutSpec
from registry.next_record import Condition
from registry.rollout.bulk import Bulk, BulkRequest, BulkStep
from registry.rollout.bulk_plan import Selection, parse_conditions
from registry.rollout.guard import Guard, limits_of
from registry.rollout.judge import describe, judge
from registry.rollout.scorers import ScorerCalls
from registry.rollout.stats import read_stats
from registry.service.messages import check_request_id, from_rollout, to_model, to_rollout
from registry.service.models import alias_of, known_record
from registry.service.names import check_part, model_name, parse_model
from registry.service.schemas import check_amounts
from registry.service.tallies import to_arm, to_shadow
from scoremesh.registry.v1 import registry_pb2 as pb


class Rollouts:
    """`guard`: asked for what it said of a rollout that has ended."""

    def __init__(self, ledger: Ledger, moves: AliasMoves, calls: ScorerCalls, guard: Guard, bulk: Bulk) -> None:
        self._library = ledger.library
        self._moves = moves
        self._calls = calls
        self._guard = guard
        self._bulk = bulk

    async def start(self, request: pb.StartRolloutRequest) -> pb.StartRolloutResponse:
        """Load first, then split. A rollout of the same versions keeps its id, and so who gets which of them."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.rollout.alias)
        for what in ("canary", "shadow"):
            if name := getattr(request.rollout, what):
                check_part(f"rollout.{what}", "version", name)
        spec = from_rollout(request.rollout, rollout_id=uuid.uuid4().hex[:16], created_at=utc_now())
        spec = _going_on(await known_record(self._library, ref), alias, spec)
        condition = Condition(check_request_id(request.request_id))
        return pb.StartRolloutResponse(model=to_model(ref, await self._moves.begin(ref, alias, spec, condition)))

    async def get(self, request: pb.GetRolloutRequest) -> pb.GetRolloutResponse:
        """With what the scorers saw until now, and what follows from it."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.alias)
        spec = (await known_record(self._library, ref)).rollouts.get(alias)
        if spec is None:
            said = self._guard.last(ref, alias)
            more = f"; the last one, {said.rollout_id}: {said.verdict}" if said is not None else ""
            raise ModelNotFoundError(f"alias {alias} of model {ref} has no rollout{more}")
        rollout = to_rollout(alias, spec)
        tally = (await read_stats(self._calls, [spec.id]))[spec.id]
        rollout.stable_stats.CopyFrom(to_arm(tally.stable))
        if spec.canary:
            rollout.canary_stats.CopyFrom(to_arm(tally.canary, against=tally.stable))
            rollout.verdict = describe(judge(tally, limits_of(spec)))
        if spec.shadow:
            rollout.shadow_stats.CopyFrom(to_shadow(tally.shadow))
        return pb.GetRolloutResponse(rollout=rollout)

    async def end(self, request: pb.EndRolloutRequest) -> pb.EndRolloutResponse:
        """Take it back, or go on to it."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.alias)
        condition = Condition(check_request_id(request.request_id))
        spec = (await known_record(self._library, ref)).rollouts.get(alias)
        # What is promoted is what runs now and scorers were prepared for, not what somebody else starts meanwhile.
        rollout_id = request.rollout_id or (spec.id if spec is not None else "")
        record = await self._moves.end(ref, alias, condition, promote=request.promote, rollout_id=rollout_id)
        return pb.EndRolloutResponse(model=to_model(ref, record))

    async def bulk(self, request: pb.RolloutBulkRequest) -> AsyncIterator[pb.RolloutBulkResponse]:
        """Ends where it is when its caller leaves; the same bulk id goes on."""
        async with aclosing(self._bulk.run(_bulk_request(request))) as steps:
            async for step in steps:
                yield _to_step(step)


def _going_on(record: AliasRecord, alias: str, spec: RolloutSpec) -> RolloutSpec:
    running = record.rollouts.get(alias)
    if running is None or (running.canary, running.shadow) != (spec.canary, spec.shadow):
        return spec
    return msgspec.structs.replace(spec, id=running.id, created_at=running.created_at)


def _bulk_request(request: pb.RolloutBulkRequest) -> BulkRequest:
    check_amounts("request", {"pause_s": request.pause_s, "max_failed_ratio": request.max_failed_ratio})
    return BulkRequest(
        selection=Selection(
            application=check_part("application", "application", request.application) if request.application else "",
            tenant=check_part("tenant", "tenant", request.tenant) if request.tenant else "",
            labels=parse_conditions("label", request.labels),
            training=parse_conditions("training", request.training),
            version=check_part("version", "version", request.version) if request.version else "",
        ),
        alias=alias_of(request.alias),
        stages=tuple(request.stages),
        pause_s=request.pause_s,
        max_failed_ratio=request.max_failed_ratio,
        bulk_id=check_part("bulk_id", "bulk rollout", request.bulk_id) if request.bulk_id else "",
        dry_run=request.dry_run,
    )


def _to_step(step: BulkStep) -> pb.RolloutBulkResponse:
    return pb.RolloutBulkResponse(
        bulk_id=step.bulk_id,
        stage=step.stage,
        done=step.done,
        failed=step.failed,
        total=step.total,
        model=model_name(step.model) if step.model is not None else "",
        failure=step.failure,
    )
