"""What scorers saw of rollouts: tallies to protos. Pure."""

from __future__ import annotations

from registry.rollout.drift import compare
from registry.rollout.tally import Arm, ShadowTally
from scoremesh.registry.v1 import registry_pb2 as pb


def to_arm(arm: Arm, against: Arm | None = None) -> pb.ArmStats:
    """One of the versions that answer; `against`: the one that its scores are compared with."""
    drift = compare(against.buckets, arm.buckets).psi if against is not None else 0.0
    return pb.ArmStats(requests=arm.requests, errors=arm.errors, mean_score=arm.mean_score, drift=drift)


def to_shadow(shadow: ShadowTally) -> pb.ShadowStats:
    """What scored beside."""
    return pb.ShadowStats(
        requests=shadow.requests,
        errors=shadow.errors,
        skipped=shadow.skipped,
        mean_abs_difference=shadow.mean_abs_difference,
        max_abs_difference=shadow.abs_difference_max,
    )
