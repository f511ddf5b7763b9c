"""The commands `explain ...`: which scorers a tenant or a model has, who shares them, and what that can cost.

They read etcd alone, and place models as routers do: by `registry.placement` and the cluster's PlacementRecord. etcd
doesn't know a scorer that died, so they show the places as they are once others have taken them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ops.connection import DEFAULT_CLUSTER, DEFAULT_ETCD, ClusterOption, EtcdOption, ModelArgument, with_etcd
from ops.known_tenants import Placed, read_placement
from ops.show import OutputFormat, OutputOption, console, mib, show_json, table
from registry.blast_radius import BlastRadius, Neighbour, blast_radius, could_lose, loss_chance, neighbours, overlaps
from registry.model import Member, check_name

app = typer.Typer(help="Which scorers a tenant or a model has, and who shares them.", no_args_is_help=True)
_MOST_NEIGHBOURS = 10


@app.command()
def tenant(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")],
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a tenant's shard, who shares how much of it, and what others lose when it's all gone."""
    placed = with_etcd(etcd, cluster, read_placement)
    placement = placed.placement
    shard = [_member_row(member) for member in placement.shard(check_name("tenant", name))]
    among = neighbours(placement, name, placed.tenants)
    sharing, radius = overlaps(placement, name, among), blast_radius(placement, name, among)
    facts = {**_facts(placed, name), "tenant": name, "known": name in placed.tenants}
    if output is OutputFormat.JSON:
        found = {**facts, "shard": shard, "overlaps": sharing, "blast_radius": radius, "neighbours": among}
        show_json(found)
        return
    _say(f"tenant {name}: {facts['shard_size']} of {facts['members']} members, {facts['replicas']} replicas a model")
    _print(["id", "host", "zone", "pool", "state", "capacity_mib"], shard, "no scorer is alive")
    rows = [[one.shared, one.tenants, _percent(one.share), _percent(one.expected_share)] for one in sharing]
    _say("\nother tenants by how many of these members they share")
    console().print(table(["shared", "tenants", "share", "by formula"], rows))
    _say("\nif all these members were useless")
    _say_radius(radius, facts)
    _say_neighbours([one for one in among if one.shared])


@app.command()
def model(
    ref: ModelArgument,
    etcd: EtcdOption = DEFAULT_ETCD,
    cluster: ClusterOption = DEFAULT_CLUSTER,
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Show a model's replicas in the order in which routers ask them, and which tenants have them all."""
    placed = with_etcd(etcd, cluster, read_placement)
    placement = placed.placement
    owners, candidates = placement.owners(ref), placement.candidates(*ref)
    shard = placement.shard(ref.tenant)
    rows = [_ranked_row(place, one, one in owners, one in shard) for place, one in enumerate(candidates, start=1)]
    sharers = could_lose(placement, ref, placed.tenants)
    facts = _facts(placed, ref.tenant)
    chance = loss_chance(facts["members"], facts["shard_size"], facts["replicas"])
    others = len([one for one in placed.tenants if one != ref.tenant])
    if output is OutputFormat.JSON:
        found = {**facts, "model": str(ref), "ranks": rows, "sharing_all_replicas": sharers, "expected_share": chance}
        show_json({**found, "others": others})
        return
    _say(f"model {ref}: {facts['replicas']} replicas in a shard of {facts['shard_size']} of {facts['members']} members")
    _print(["rank", "id", "role", "host", "zone", "state"], rows, "no scorer is alive")
    _say(
        f"\n{len(sharers)} of {others} other tenants ({_percent(len(sharers) / max(others, 1))}) have all its replicas"
    )
    _say(f"in their shards; C(k,R)/C(N,R) = {_formula(facts)} = {_percent(chance)}")


def _facts(placed: Placed, name: str) -> dict[str, Any]:
    """What the formulas are of."""
    placement = placed.placement
    return {
        "members": len(placement.eligible(name)),
        "shard_size": len(placement.shard(name)),
        "replicas": placement.replicas,
    }


def _member_row(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "host": member.host,
        "zone": member.zone,
        "pool": member.pool,
        "state": member.state.value,
        "capacity_mib": mib(member.capacity_bytes),
    }


def _ranked_row(place: int, member: Member, owns: bool, in_shard: bool) -> dict[str, Any]:
    role = "replica" if owns else "shard" if in_shard else "last resort"
    return {"rank": place, "role": role, **_member_row(member)}


def _say_radius(radius: BlastRadius, facts: dict[str, Any]) -> None:
    _say(f"  {_percent(radius.lose_all)} of {radius.others} other tenants had no member left")
    _say(f"  {_percent(radius.lose_part)} had fewer")
    _say(f"  {_percent(radius.models_lost)} of their models had no replica left, and load on the rest of their shards")
    _say(f"  by formula, C(k,R)/C(N,R) = {_formula(facts)}: {_percent(radius.expected_models_lost)}")


def _say_neighbours(sharing: Sequence[Neighbour]) -> None:
    if not sharing:
        return
    _say(f"\nwho shares most ({min(len(sharing), _MOST_NEIGHBOURS)} of {len(sharing)}; -o json has all)")
    rows = [[one.tenant, len(one.shared), ", ".join(one.shared)] for one in sharing[:_MOST_NEIGHBOURS]]
    console().print(table(["tenant", "shared", "members"], rows))


def _formula(facts: dict[str, Any]) -> str:
    replicas = min(facts["replicas"], facts["shard_size"])
    return f"C({facts['shard_size']},{replicas})/C({facts['members']},{replicas})"


def _print(columns: Sequence[str], rows: Sequence[dict[str, Any]], empty: str) -> None:
    if rows:
        console().print(table(columns, [[row[column] for column in columns] for row in rows]))
    else:
        _say(empty)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _say(text: str) -> None:
    typer.echo(text)
