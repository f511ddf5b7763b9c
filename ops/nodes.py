"""The command `nodes`: the scorers that are announced in etcd."""

from __future__ import annotations

from typing import Any

from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, with_etcd
from ops.member_list import list_members
from ops.show import OutputFormat, OutputOption, mib, show_rows
from registry.model import Member

_COLUMNS = ["id", "address", "host", "zone", "pool", "state", "capacity_mib"]


def nodes(
    etcd: EtcdOption = DEFAULT_ETCD, cluster: ClusterOption = DEFAULT_CLUSTER, output: OutputOption = OutputFormat.TABLE
) -> None:
    """List the scorers: where each is, its state and its memory for models."""
    members = with_etcd(etcd, cluster, list_members)
    show_rows([_row(members[member_id]) for member_id in sorted(members)], _COLUMNS, output, "no scorer is alive")


def _row(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "address": member.address,
        "host": member.host,
        "zone": member.zone,
        "pool": member.pool,
        "state": member.state.value,
        "capacity_mib": mib(member.capacity_bytes),
        "incarnation": member.incarnation,
    }
