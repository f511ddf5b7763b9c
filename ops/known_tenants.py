"""Which tenants etcd knows, and how models are placed: what a command needs to place models as routers do."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ops.member_list import list_members
from registry.errors import ConflictError
from registry.etcd import Etcd
from registry.etcd_records import prefix_end
from registry.keys import Keys, decode
from registry.model import PlacementRecord, TenantRecord
from registry.placement import Placement
from registry.shards import NO_RULE, rule_of


class Placed(NamedTuple):
    """`tenants`: all that have settings or models, ascending."""

    placement: Placement
    record: PlacementRecord
    tenants: list[str]


async def read_placement(etcd: Etcd, keys: Keys) -> Placed:
    """Read it all from etcd. Members that died are not known there, so it is as when their places are taken."""
    members = await list_members(etcd, keys)
    record, _ = await placement_record(etcd, keys)
    records, with_models = await _tenants(etcd, keys)
    rules = {name: rule for name, of in records.items() if (rule := rule_of(of)) != NO_RULE}
    placement = Placement(members.values(), replicas=record.replicas, shard_size=record.shard_size, rules=rules)
    return Placed(placement, record, sorted(records.keys() | with_models))


async def placement_record(etcd: Etcd, keys: Keys) -> tuple[PlacementRecord, int]:
    """How models are placed in this cluster, and the revision of the last write; the defaults and 0 where nobody said.

    Raises:
        ConflictError: somebody else wrote to the key.
    """
    _, found = await etcd.get(keys.placement)
    try:
        return (decode(PlacementRecord, found.value), found.mod_revision) if found else (PlacementRecord(), 0)
    except msgspec.DecodeError as error:
        raise ConflictError(f"{keys.placement.decode()} in etcd is damaged: {error}") from error


async def _tenants(etcd: Etcd, keys: Keys) -> tuple[dict[str, TenantRecord], set[str]]:
    """Those with settings, and those with models. A damaged record counts as the defaults, as it does in routers."""
    records = {}
    for kv in (await etcd.list_prefix(keys.tenants_prefix)).kvs:
        tenant = kv.key.removeprefix(keys.tenants_prefix).decode(errors="replace")
        try:
            records[tenant] = decode(TenantRecord, kv.value)
        except msgspec.DecodeError:
            records[tenant] = TenantRecord(tenant=tenant)
    return records, await _with_models(etcd, keys)


async def _with_models(etcd: Etcd, keys: Keys) -> set[str]:
    """One read of one key for each tenant, since its models may be many thousands."""
    found: set[str] = set()
    start = keys.models_prefix
    while (key := await etcd.next_key(start, keys.models_prefix)) is not None:
        ref = keys.model_ref(key)
        if ref is None:
            start = key + b"\0"
            continue
        found.add(ref.tenant)
        start = prefix_end(keys.tenant_models_prefix(ref.tenant))
    return found
