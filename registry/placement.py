"""Which members own a model. Pure.

Contract: the same members, in any order, give the same answer in every process. A tenant's shard is chosen by
`registry.shards`; inside it weighted rendezvous hashing ranks the members for each model, in other zones and on other
hosts first. One member more or less changes at most one place of a shard, and owners only of the models that the
member that went from the shard had, or that the one that came in takes.

A member that died stays in the placement as `down` while its places are kept: in its stead the rest of the shard is
asked. One that drains has no place any more; those whose shard it would be in, were it to stay, may ask it
when nobody else is left.

Cost: a hash for each member of the shard and new model; answers are kept for the life of a `Placement`, that is of a
membership epoch, so that a model that was asked for before costs one look into a dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from registry.model import Member, MemberState, ModelRef
from registry.rendezvous import apart_first, rank
from registry.shards import ShardRule, Shards

_CACHED_MODELS = 200_000
_PLACED = (MemberState.READY, MemberState.LEAVING, MemberState.DOWN)
_NO_RULES: Mapping[str, ShardRule] = MappingProxyType({})


class Placement:
    """The placement of one membership epoch. Immutable but for its cache of answers."""

    def __init__(
        self,
        members: Iterable[Member],
        *,
        replicas: int = 2,
        shard_size: int = 0,
        rules: Mapping[str, ShardRule] = _NO_RULES,
    ) -> None:
        """`replicas`: owners of a model, at least 1; fewer where the shard is smaller. `shard_size`: of a tenant
        without a rule for it; 0: all members. `rules`: of the tenants that aren't as others, by tenant; not changed
        any more.
        """
        every = list(members)
        placed = [member for member in every if member.state in _PLACED]
        draining = [member for member in every if member.state is MemberState.DRAINING]
        self.replicas = replicas
        self._shards = Shards(placed, rules, shard_size, replicas - 1)
        self._as_if_staying = Shards(placed + draining, rules, shard_size, replicas - 1) if draining else None
        self._has_down = any(member.state is MemberState.DOWN for member in placed)
        self._cache: dict[tuple[str, str], tuple[Member, ...]] = {}

    def shard(self, tenant: str) -> tuple[Member, ...]:
        """The members that a tenant's models may be on, those that are down among them."""
        return self._shards.of(tenant)

    def eligible(self, tenant: str) -> tuple[Member, ...]:
        """The members of which a tenant's shard is chosen: those of its dedicated pool, or all common ones."""
        return tuple(self._shards.eligible(tenant))

    def owners(self, ref: ModelRef) -> tuple[Member, ...]:
        """The replicas of a model in rank order, in other zones and on other hosts where there are enough. One that
        is down is among them.
        """
        ranked = self._ranked(*ref) if self._has_down else self.candidates(*ref)
        return tuple(ranked[: min(self.replicas, len(self.shard(ref.tenant)))])

    def candidates(self, tenant: str, model: str) -> tuple[Member, ...]:
        """Whom to ask for a model, in this order: its replicas, the rest of its shard, members of it that are
        draining; none that is down or still warming.
        """
        found = self._cache.get((tenant, model))
        return found if found is not None else self._place(tenant, model)

    def _place(self, tenant: str, model: str) -> tuple[Member, ...]:
        alive = [member for member in self._ranked(tenant, model) if member.state is not MemberState.DOWN]
        placed = (*alive, *self._draining(tenant, model))
        if len(self._cache) >= _CACHED_MODELS:
            self._cache.clear()
        self._cache[(tenant, model)] = placed
        return placed

    def _ranked(self, tenant: str, model: str) -> list[Member]:
        return apart_first(rank(self.shard(tenant), _key(tenant, model)))

    def _draining(self, tenant: str, model: str) -> list[Member]:
        if self._as_if_staying is None:
            return []
        leaving = [one for one in self._as_if_staying.of(tenant) if one.state is MemberState.DRAINING]
        return rank(leaving, _key(tenant, model))


def _key(tenant: str, model: str) -> bytes:
    return f"{tenant}/{model}".encode()
