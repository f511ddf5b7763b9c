"""Whether a canary may stay. Pure: takes what was seen of both versions, and decides.

Contract: RollBack only for what chance doesn't explain, as a guard asks every few seconds and one unlucky look would
do: errors by the lower bound of Newcombe's score interval for the difference of two proportions (Newcombe: Interval
estimation for the difference between independent proportions, Statistics in Medicine 17, 1998, method 10; Wilson's
intervals are its parts), scores by `registry.rollout.drift`. Both at a tail of about 3 in 100,000 a look. A canary
that fails every request is taken back at its 20th, without waiting for more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from registry.rollout.drift import compare
from registry.rollout.tally import Arm, RolloutTally

HOPELESS_REQUESTS = 20
_SURE_Z = 4.0


class Limits(NamedTuple):
    """`max_error_ratio`: by how much a canary's share of failed requests may be greater than the other's. `max_drift`:
    the greatest index of `registry.rollout.drift`. `min_requests`: that both must have before they are compared.
    """

    max_error_ratio: float = 0.01
    max_drift: float = 0.25
    min_requests: int = 200


class Wait(NamedTuple):
    """Not enough was seen."""

    why: str


class Healthy(NamedTuple):
    """Enough was seen, and nothing speaks against the canary. `drift`: the index."""

    drift: float


class RollBack(NamedTuple):
    """The canary must go."""

    why: str


Verdict = Wait | Healthy | RollBack


def judge(tally: RolloutTally, limits: Limits) -> Verdict:
    """Decide by what was seen so far."""
    stable, canary = tally.stable, tally.canary
    if _is_hopeless(stable, canary):
        return RollBack(f"all {canary.requests} requests to the canary failed")
    fewest = min(stable.requests, canary.requests)
    if fewest < limits.min_requests:
        return Wait(f"{fewest} of {limits.min_requests} requests")
    return _judge_errors(stable, canary, limits) or _judge_scores(stable, canary, limits)


def describe(verdict: Verdict) -> str:
    """As text for people: "wait: why", "healthy", "roll back: why"."""
    match verdict:
        case Wait(why):
            return f"wait: {why}"
        case RollBack(why):
            return f"roll back: {why}"
    return f"healthy: drift {verdict.drift:.3f}"


def wilson(errors: int, requests: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Journal of the American Statistical Association 22, 1927)."""
    share, square = errors / requests, z * z / requests
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / requests + square / (4 * requests)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def surely_worse_by(stable: Arm, canary: Arm, z: float = _SURE_Z) -> float:
    """The lower bound of how much greater the canary's share of failures is; negative where it may be smaller. Both
    must have requests.
    """
    p, q = stable.errors / stable.requests, canary.errors / canary.requests
    upper, lower = wilson(stable.errors, stable.requests, z)[1], wilson(canary.errors, canary.requests, z)[0]
    return q - p - math.hypot(q - lower, upper - p)


def _is_hopeless(stable: Arm, canary: Arm) -> bool:
    """Whether all fails in the canary, and it isn't that all fails everywhere."""
    fails = canary.requests >= HOPELESS_REQUESTS and canary.errors == canary.requests
    return fails and stable.errors * 2 <= stable.requests


def _judge_errors(stable: Arm, canary: Arm, limits: Limits) -> RollBack | None:
    if surely_worse_by(stable, canary) <= limits.max_error_ratio:
        return None
    return RollBack(
        f"{canary.errors} of {canary.requests} requests to the canary failed, {stable.errors} of {stable.requests} "
        f"to the version beside it; allowed is a share greater by {limits.max_error_ratio:g}"
    )


def _judge_scores(stable: Arm, canary: Arm, limits: Limits) -> Verdict:
    fewest = min(sum(stable.buckets.values()), sum(canary.buckets.values()))
    if fewest < limits.min_requests:
        return Wait(f"{fewest} of {limits.min_requests} scores")
    drift = compare(stable.buckets, canary.buckets)
    if drift.significant and drift.psi > limits.max_drift:
        return RollBack(f"the canary's scores drift: stability index {drift.psi:.2f}, allowed {limits.max_drift:g}")
    return Healthy(drift.psi)
