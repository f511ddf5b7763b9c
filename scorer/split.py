"""Which requests a canary answers. Pure.

Contract: `position` gives every entity a fixed place in [0, 100) for one rollout, and `turn_position` every request
that names none; the canary answers those below its percentage. So an entity always gets the same version, raising the
percentage only adds entities to the canary's, and another rollout draws anew.

Without an entity the n-th request gets the n-th point of a Weyl sequence, the fractional part of n times the golden
ratio: the canary's share of any n requests is right within the order of log(n) (Kuipers and Niederreiter, Uniform
Distribution of Sequences, ch. 2, sec. 3), and unlike with every k-th request no caller with a period of its own always
hits the same version.
"""

from __future__ import annotations

import mmh3

_TO_PERCENT = 100 / 2**53  # exact: 100 scaled by a power of two, so that no position rounds up to 100
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, made odd
_MASK = 2**64 - 1


def position(rollout_id: str, entity_key: str) -> float:
    """The place of an entity: in [0, 100), even over the entities (MurmurHash3, 128 bits, x64, the first half)."""
    digest = mmh3.hash64(f"{rollout_id}\0{entity_key}".encode(), signed=False)[0]
    return (digest >> 11) * _TO_PERCENT


def turn_position(turn: int) -> float:
    """The place of the n-th request without an entity: in [0, 100), even over any stretch of turns."""
    return ((turn * _GOLDEN & _MASK) >> 11) * _TO_PERCENT
