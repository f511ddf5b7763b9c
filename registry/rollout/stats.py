"""What the scorers saw of rollouts, added up.

Contract: members that don't answer are left out and named in the log; what they saw counts as soon as they answer. See
`registry.rollout.tally` for why a sum may fall.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from registry.rollout.scorers import GET_ROLLOUT_STATS, Answered, ScorerCalls
from registry.rollout.tally import Arm, RolloutTally, ShadowTally, merge
from scoremesh.scorer.v1 import scorer_pb2 as pb

_log = logging.getLogger(__name__)
_IDS_PER_REQUEST = 200


async def read_stats(calls: ScorerCalls, rollout_ids: Sequence[str], timeout_s: float = 5.0) -> dict[str, RolloutTally]:
    """What all members saw of each rollout; an empty tally for one that nobody knows. Raises EtcdUnavailableError."""
    seen: dict[str, list[RolloutTally]] = {rollout_id: [] for rollout_id in rollout_ids}
    for first in range(0, len(rollout_ids), _IDS_PER_REQUEST):
        wanted = rollout_ids[first : first + _IDS_PER_REQUEST]
        for stats in await _ask(calls, wanted, timeout_s):
            seen.setdefault(stats.rollout_id, []).append(tally_of(stats))
    return {rollout_id: merge(tallies) for rollout_id, tallies in seen.items()}


async def _ask(calls: ScorerCalls, rollout_ids: Iterable[str], timeout_s: float) -> list[pb.RolloutStats]:
    found: list[pb.RolloutStats] = []
    for reply in await calls.ask(GET_ROLLOUT_STATS, pb.GetRolloutStatsRequest(rollout_ids=rollout_ids), timeout_s):
        if isinstance(reply, Answered):
            found.extend(reply.answer.stats)
        else:
            _log.warning("member %s doesn't say what it saw of rollouts: %s", reply.member.id, type(reply).__name__)
    return found


def tally_of(stats: pb.RolloutStats) -> RolloutTally:
    """One scorer's numbers."""
    shadow = stats.shadow
    return RolloutTally(
        _arm(stats.stable),
        _arm(stats.canary),
        ShadowTally(
            shadow.requests,
            shadow.errors,
            shadow.skipped,
            shadow.abs_difference_sum,
            shadow.abs_difference_max,
            shadow.score_count,
        ),
    )


def _arm(arm: pb.Arm) -> Arm:
    return Arm(arm.requests, arm.errors, arm.score_sum, arm.score_count, dict(arm.buckets))
