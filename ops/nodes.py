"""The command `nodes`: the scorers and routers that are announced in etcd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, with_etcd
from ops.member_list import list_members
from ops.show import OutputFormat, OutputOption, mib, show_rows
from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import Member

_COLUMNS = ["kind", "id", "address", "host", "zone", "pool", "state", "capacity_mib"]


def nodes(
    etcd: EtcdOption = DEFAULT_ETCD, cluster: ClusterOption = DEFAULT_CLUSTER, output: OutputOption = OutputFormat.TABLE
) -> None:
    """List the scorers and routers: where each is, its state, and a scorer's memory for models."""
    scorers, routers = with_etcd(etcd, cluster, _list)
    rows = [_row("scorer", scorers[name]) for name in sorted(scorers)]
    rows += [_row("router", routers[name]) for name in sorted(routers)]
    show_rows(rows, _COLUMNS, output, "nobody is alive")


async def _list(etcd: Etcd, keys: Keys) -> tuple[Mapping[str, Member], Mapping[str, Member]]:
    return await list_members(etcd, keys), await list_members(etcd, keys.of_routers())


def _row(kind: str, member: Member) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": member.id,
        "address": member.address,
        "host": member.host,
        "zone": member.zone,
        "pool": member.pool,
        "state": member.state.value,
        "capacity_mib": mib(member.capacity_bytes),
        "incarnation": member.incarnation,
    }
