"""Who shares scorers with whom, and what one tenant can take down. Pure; for commands and pages.

The question is what happens when one tenant, the abuser, makes every member of its shard useless. With N members that a
shard is chosen of, shards of k and R replicas of a model, all chosen alike and apart from each other:

- two tenants share i members with the chance C(k,i) C(N-k,k-i) / C(N,k);
- another tenant's model has lost all its replicas with the chance C(k,R) / C(N,R). Where the rest of its shard is
  alive, that loads it.

Real fleets differ: members of several weights are shared more, spreading over few zones makes shards more alike, and
premium and dedicated shards less. So both are told, what is and what the formula says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import comb

import msgspec

from registry.model import ModelRef
from registry.placement import Placement


class Neighbour(msgspec.Struct, frozen=True):
    """Another tenant. `shared`: the ids of the members that it shares; `shard_size`: how many it has."""

    tenant: str
    shared: tuple[str, ...]
    shard_size: int


class Overlap(msgspec.Struct, frozen=True):
    """How many other `tenants` share exactly `shared` members. `share`: of all others; `expected_share`: by formula."""

    shared: int
    tenants: int
    share: float
    expected_share: float


class BlastRadius(msgspec.Struct, frozen=True):
    """What `others` lose with a whole shard, as shares from 0 to 1. `lose_all`: tenants without a member left;
    `lose_part`: those that lose some; `models_lost`: models without a replica left, were each tenant's as many; by the
    formula: `expected_models_lost`.
    """

    others: int
    lose_all: float
    lose_part: float
    models_lost: float
    expected_models_lost: float


def overlap_chance(members: int, size: int, shared: int, other_size: int) -> float:
    """The chance that a shard of `other_size` out of `members` has exactly `shared` members of one of `size`."""
    if not max(0, size + other_size - members) <= shared <= min(size, other_size):
        return 0.0
    return comb(size, shared) * comb(members - size, other_size - shared) / comb(members, other_size)


def loss_chance(members: int, size: int, replicas: int) -> float:
    """The chance that all `replicas` of a model are in another tenant's shard of `size` out of `members`."""
    replicas = min(replicas, size)
    return comb(size, replicas) / comb(members, replicas) if members else 0.0


def neighbours(placement: Placement, tenant: str, others: Iterable[str]) -> list[Neighbour]:
    """The other tenants, those that share most first."""
    own = {member.id for member in placement.shard(tenant)}
    found = [_neighbour(placement, other, own) for other in others if other != tenant]
    return sorted(found, key=lambda one: (-len(one.shared), one.tenant))


def overlaps(placement: Placement, tenant: str, among: Iterable[Neighbour]) -> list[Overlap]:
    """How many share 0, 1, ... k members. Expected is what the formula says of shards of the size of this one."""
    size, members = len(placement.shard(tenant)), len(placement.eligible(tenant))
    counts = Counter(len(one.shared) for one in among)
    total = max(counts.total(), 1)
    return [Overlap(i, counts[i], counts[i] / total, overlap_chance(members, size, i, size)) for i in range(size + 1)]


def blast_radius(placement: Placement, tenant: str, among: Iterable[Neighbour]) -> BlastRadius:
    """What the others lose when every member of this tenant's shard is useless."""
    known = list(among)
    total = max(len(known), 1)
    expected = loss_chance(len(placement.eligible(tenant)), len(placement.shard(tenant)), placement.replicas)
    return BlastRadius(
        others=len(known),
        lose_all=sum(one.shard_size == len(one.shared) > 0 for one in known) / total,
        lose_part=sum(0 < len(one.shared) < one.shard_size for one in known) / total,
        models_lost=sum(_models_lost(one, placement.replicas) for one in known) / total,
        expected_models_lost=expected,
    )


def could_lose(placement: Placement, ref: ModelRef, others: Iterable[str]) -> list[str]:
    """The other tenants that have all replicas of this model in their shards."""
    replicas = {member.id for member in placement.owners(ref)}
    return [
        other
        for other in others
        if other != ref.tenant and replicas and replicas <= {member.id for member in placement.shard(other)}
    ]


def _neighbour(placement: Placement, other: str, own: set[str]) -> Neighbour:
    shard = [member.id for member in placement.shard(other)]
    return Neighbour(other, tuple(sorted(own.intersection(shard))), len(shard))


def _models_lost(one: Neighbour, replicas: int) -> float:
    """The share of its models whose replicas are all among what is shared, where ranks are a shuffle of its shard."""
    replicas = min(replicas, one.shard_size)
    return comb(len(one.shared), replicas) / comb(one.shard_size, replicas) if replicas else 0.0
