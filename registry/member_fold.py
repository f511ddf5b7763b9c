"""The members of a cluster as a router sees them, made from the events of the watch. Pure.

Contract: after any history of puts and deletes, however it is cut into events and however often the whole state is
listed again, the members are those whose keys hold a valid Member now, and for a while those that a listing lost. For
the state is listed again where changes were missed, and that is also how an etcd that lost its data looks, whose
members live and are about to announce themselves anew: they stay until `grace_s` is over, as a process that died
without a word stays until its lease is over. Who is gone then may keep its places as one that is down
(`registry.tombstones`). Views are immutable; the epoch grows by one exactly when the members or who is down differ from
the view before, so that what is computed for one epoch holds for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from registry.etcd_records import Changed, Deleted, KeyValue, Listed, Put
from registry.keys import Keys, decode_member
from registry.model import Member
from registry.tombstones import Tombstones

_NOBODY: Mapping[str, Member] = MappingProxyType({})


class MembersView(NamedTuple):
    """The members by id as of one revision of etcd. `down`: those that died lately and keep their places, also while
    they are there again and warming.
    """

    epoch: int
    revision: int
    members: Mapping[str, Member]
    down: Mapping[str, Member] = _NOBODY

    @property
    def placed(self) -> tuple[Member, ...]:
        """Those whom a placement is made of; who warms and has kept its places is in it twice, as warming and down."""
        return (*self.members.values(), *self.down.values())


class MemberFold:
    """Folds the events of a watch of `keys.members_prefix`; `view` is the newest view. `lost_until_s`: by id, until
    when those stay that a listing lost. `refill_after_s`: how long the places of the dead are kept.
    """

    def __init__(self, keys: Keys, grace_s: float = 0.0, refill_after_s: float = 0.0) -> None:
        self._prefix = keys.members_prefix
        self._grace_s = grace_s
        self._tombstones = Tombstones(refill_after_s)
        self.lost_until_s: dict[str, float] = {}
        self.view = MembersView(0, 0, _NOBODY)

    def apply(self, event: Listed | Changed, now_s: float = 0.0) -> tuple[bytes, ...]:
        """Take the next event. Returns the keys that hold no valid member of that name, to be logged; who was a member
        under such a key is none any more.
        """
        members = dict(self.view.members)
        if isinstance(event, Changed):
            bad = [self._take(change, members) for change in event.events]
        else:
            bad = [self._take(Put(kv), members) for kv in event.kvs]
            self._miss(members.keys() - {self._id(kv.key) for kv in event.kvs}, now_s)
            members = {name: at for name, at in members.items() if self._stays(name, now_s)}
        self._show(members, event.revision, now_s)
        return tuple(key for key in bad if key)

    def expire(self, now_s: float) -> None:
        """Let go of those whose time is over."""
        members = {name: at for name, at in self.view.members.items() if self._stays(name, now_s)}
        self._show(members, self.view.revision, now_s)

    @property
    def next_s(self) -> float:
        """When `expire` has something to do; infinite when it hasn't."""
        return min(min(self.lost_until_s.values(), default=math.inf), self._tombstones.next_s)

    def _miss(self, lost: Iterable[str], now_s: float) -> None:
        self.lost_until_s = {name: self.lost_until_s.get(name, now_s + self._grace_s) for name in lost}

    def _stays(self, name: str, now_s: float) -> bool:
        return self.lost_until_s.get(name, math.inf) > now_s

    def _show(self, members: Mapping[str, Member], revision: int, now_s: float) -> None:
        self.lost_until_s = {name: until_s for name, until_s in self.lost_until_s.items() if name in members}
        self._tombstones.see(self.view.members, members, now_s)
        down = dict(self._tombstones.down)
        epoch = self.view.epoch + (members != self.view.members or down != self.view.down)
        self.view = MembersView(epoch, revision, MappingProxyType(members), MappingProxyType(down))

    def _id(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode(errors="replace")

    def _take(self, change: Put | Deleted, members: dict[str, Member]) -> bytes:
        """Apply one change; b"", or the key of a put that is no member."""
        key = change.kv.key if isinstance(change, Put) else change.key
        members.pop(self._id(key), None)
        self.lost_until_s.pop(self._id(key), None)
        if not isinstance(change, Put):
            return b""
        member = _decode(change.kv, self._prefix)
        if member is None:
            return key
        members[member.id] = member
        return b""


def _decode(kv: KeyValue, prefix: bytes) -> Member | None:
    try:
        member = decode_member(kv.value)
    except msgspec.DecodeError:
        return None
    return member if prefix + member.id.encode() == kv.key else None
