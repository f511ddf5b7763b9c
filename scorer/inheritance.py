"""Which models to load before traffic comes for them, when the members of the cluster change. Pure.

Contract: both sides, who gets models and who gives them away, place models as routers do (`registry.placement`), among
the members as they will be when all that is under way has ended. What a member will be asked for first comes before
what it's the second choice for; of each, the hottest first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from registry.member_fold import MembersView
from registry.model import Member, MemberState, ModelRef, ModelVersion
from registry.placement import Placement

_GOING = (MemberState.LEAVING, MemberState.DRAINING)


class Held(NamedTuple):
    """A model that a member has in memory. `ref`: under which name it's asked for; `demand`: requests that count."""

    ref: ModelRef
    version: ModelVersion
    demand: float


def settled(members: Iterable[Member]) -> list[Member]:
    """The members as they will be: who warms is ready, and no longer down; who leaves is gone."""
    staying = [member for member in members if member.state not in _GOING]
    warming = {member.id for member in staying if member.state is MemberState.WARMING}
    return [
        msgspec.structs.replace(member, state=MemberState.READY) if member.state is MemberState.WARMING else member
        for member in staying
        if member.state is not MemberState.DOWN or member.id not in warming
    ]


def vanished(before: MembersView, now: MembersView) -> bool:
    """Whether somebody is gone without having said that it leaves, or the places of one that died are free now."""
    ready = {member.id for member in before.members.values() if member.state is MemberState.READY}
    return not ready <= now.members.keys() or bool(before.down.keys() - now.down.keys() - now.members.keys())


def asked(placement: Placement, ref: ModelRef) -> list[str]:
    """The ids of the members that are asked for a model, by rank: its owners, and others in the stead of those that
    are down.
    """
    return [member.id for member in placement.candidates(ref.tenant, ref.model)[: placement.replicas]]


def to_warm(
    resident_lists: Iterable[Iterable[Held]], now: Placement, then: Placement, me: str, room_bytes: int
) -> list[Held]:
    """What others have in memory and I will be asked for, but am not now, as far as it fits into `room_bytes`. A model
    that several have has the demand of all of them.
    """
    found = _summed(resident_lists)
    places = {held.ref: asked(then, held.ref) for held in found}
    mine = [held for held in found if me in places[held.ref] and me not in asked(now, held.ref)]
    mine.sort(key=lambda held: (places[held.ref].index(me), -held.demand, held.version.package))
    chosen = []
    for held in mine:
        if held.version.resident_bytes <= room_bytes:
            room_bytes -= held.version.resident_bytes
            chosen.append(held)
    return chosen


def to_hand_over(resident: Iterable[Held], then: Placement) -> dict[str, list[Held]]:
    """What each member, by id, will be asked for of what is resident here."""
    places = [
        (rank, -held.demand, held.version.package, member, held)
        for held in _summed([resident])
        for rank, member in enumerate(asked(then, held.ref))
    ]
    places.sort(key=lambda place: place[:3])
    handed: dict[str, list[Held]] = {}
    for _rank, _demand, _package, member, held in places:
        handed.setdefault(member, []).append(held)
    return handed


def _summed(resident_lists: Iterable[Iterable[Held]]) -> list[Held]:
    """Each package once."""
    found: dict[str, Held] = {}
    for held in (held for resident in resident_lists for held in resident):
        known = found.get(held.version.package)
        found[held.version.package] = held if known is None else known._replace(demand=known.demand + held.demand)
    return list(found.values())
