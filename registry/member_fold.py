"""The members of a cluster as a router sees them, made from the events of the watch. Pure.

Contract: after any history of puts and deletes, however it is cut into events and however often the whole state is
listed again, the members are those whose keys hold a valid Member now. Views are immutable; the epoch grows by one
exactly when the members differ from the view before, so that what is computed for one epoch holds for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from registry.etcd_records import Changed, Deleted, KeyValue, Listed, Put
from registry.keys import Keys, decode_member
from registry.model import Member


class MembersView(NamedTuple):
    """The members by id as of one revision of etcd."""

    epoch: int
    revision: int
    members: Mapping[str, Member]


class MemberFold:
    """Folds the events of a watch of `keys.members_prefix`; `view` is the newest view."""

    def __init__(self, keys: Keys) -> None:
        self._prefix = keys.members_prefix
        self.view = MembersView(0, 0, MappingProxyType({}))

    def apply(self, event: Listed | Changed) -> tuple[bytes, ...]:
        """Take the next event. Returns the keys that hold no valid member of that name, to be logged; who was a member
        under such a key is none any more.
        """
        members: dict[str, Member] = {}
        if isinstance(event, Changed):
            members.update(self.view.members)
            bad = [self._take(change, members) for change in event.events]
        else:
            bad = [self._take(Put(kv), members) for kv in event.kvs]
        epoch = self.view.epoch + (members != self.view.members)
        self.view = MembersView(epoch, event.revision, MappingProxyType(members))
        return tuple(key for key in bad if key)

    def _take(self, change: Put | Deleted, members: dict[str, Member]) -> bytes:
        """Apply one change; b"", or the key of a put that is no member."""
        key = change.kv.key if isinstance(change, Put) else change.key
        members.pop(key.removeprefix(self._prefix).decode(errors="replace"), None)
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
