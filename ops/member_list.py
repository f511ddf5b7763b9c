"""Who is announced in etcd now."""

from __future__ import annotations

from collections.abc import Mapping

from registry.etcd import Etcd
from registry.etcd_records import Listed
from registry.keys import Keys
from registry.member_fold import MemberFold
from registry.model import Member


async def list_members(etcd: Etcd, keys: Keys) -> Mapping[str, Member]:
    """The members by id. Raises EtcdUnavailableError, EtcdAuthError, EtcdRefusedError."""
    listing = await etcd.list_prefix(keys.members_prefix)
    fold = MemberFold(keys)
    fold.apply(Listed(listing.revision, listing.kvs))
    return fold.view.members
