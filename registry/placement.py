"""Which members own a model: weighted rendezvous hashing. Pure.

Contract: the same members, in any order, give the same answer in every router. Adding a member changes the owners of a
model only by that member coming in; removing one changes only the models that it owned.

Source: D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates" (1998); the weights as
in C. Schindelhauer and G. Schomaker, "Weighted distributed hash tables" (2005): a member's score for a key is -weight
/ ln(u), u in (0, 1) from the hash of member and key, and the highest scores win, so that each member wins a share
proportional to its weight. Hash: MurmurHash3 x64 128, the first 64 bits.

Cost: one hash for each member and new key; answers are kept for the life of a `Placement`, that is of a membership
epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import mmh3

from registry.model import Member, MemberState, ModelRef

_CACHED_MODELS = 200_000
_U64 = 2.0**-64
_ASKED = (MemberState.READY, MemberState.LEAVING)


def score(member_id: str, weight: float, key: bytes) -> float:
    """How strongly a member claims a key; higher wins. `weight` > 0 in any unit."""
    digest = mmh3.hash64(member_id.encode() + b"\0" + key, signed=False)[0]
    # u = 1 happens when the digest rounds up to 2**64: the score is then as high as scores get.
    u = (digest + 0.5) * _U64
    return -weight / log(u) if u < 1.0 else float("inf")


def rank(members: Iterable[Member], key: bytes) -> list[Member]:
    """The members by falling score; equal scores by id, so that the order is total."""
    scored = [(score(member.id, max(member.capacity_bytes, 1), key), member.id, member) for member in members]
    scored.sort(key=lambda entry: entry[:2], reverse=True)
    return [member for _score, _id, member in scored]


def distinct_hosts_first(ranked: Iterable[Member]) -> list[Member]:
    """The best member of each host in rank order, then all others in rank order."""
    hosts: set[str] = set()
    firsts: list[Member] = []
    others: list[Member] = []
    for member in ranked:
        (others if member.host in hosts else firsts).append(member)
        hosts.add(member.host)
    return firsts + others


class Placement:
    """The placement of one membership epoch. Immutable but for its cache of answers."""

    def __init__(self, members: Iterable[Member], *, replicas: int = 2) -> None:
        """`replicas`: owners of a model, at least 1; fewer where the shard is smaller."""
        every = sorted(members, key=lambda member: member.id)
        self._ready = [member for member in every if member.state in _ASKED]
        self._draining = [member for member in every if member.state is MemberState.DRAINING]
        self._replicas = replicas
        self._cache: dict[tuple[str, str], tuple[Member, ...]] = {}

    def shard(self, _tenant: str) -> list[Member]:
        """The members that may score for a tenant."""
        return self._ready

    def owners(self, ref: ModelRef) -> tuple[Member, ...]:
        """The replicas of a model in rank order, on distinct hosts where there are enough."""
        return self.candidates(ref.tenant, ref.model)[: self._replicas]

    def candidates(self, tenant: str, model: str) -> tuple[Member, ...]:
        """Whom to ask for a model, in this order: its replicas, the rest of its shard, members that are draining;
        none that is still warming.
        """
        found = self._cache.get((tenant, model))
        return found if found is not None else self._place(tenant, model)

    def _place(self, tenant: str, model: str) -> tuple[Member, ...]:
        key = f"{tenant}/{model}".encode()
        ranked = distinct_hosts_first(rank(self.shard(tenant), key))
        placed = (*ranked, *rank(self._draining, key))
        if len(self._cache) >= _CACHED_MODELS:
            self._cache.clear()
        self._cache[(tenant, model)] = placed
        return placed
