"""How far one tenant's harm reaches: shards as they are placed, beside the formula. Prints markdown.

python -m bench.shards [--tenants 3000] [--abusers 100]

Places one model of each tenant on N members by `registry.placement`. For each of some tenants it counts the other
tenants' models that have all their replicas in that tenant's shard (harm: C(k,R)/C(N,R) by the formula), the tenants
that share nothing with it, and those whose whole shard it has; and, when one member leaves, the places that move.
Hashing needs no machine: the figures are the same everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

from registry.blast_radius import loss_chance, overlap_chance
from registry.model import Member, ModelRef
from registry.placement import Placement
from registry.shards import ShardRule


class Sharing(NamedTuple):
    """Shares of all pairs of an abuser and another tenant."""

    nothing: float
    whole_shard: float
    all_replicas: float


def fleet(members: int, zones: int) -> list[Member]:
    return [Member(f"s{n}", f"h:{n}", f"h{n}", f"z{n % zones}", "default", 1, "1") for n in range(members)]


def bits(members: Sequence[Member]) -> int:
    return sum(1 << int(one.id[1:]) for one in members)


def measure(placement: Placement, tenants: int, abusers: int) -> Sharing:
    names = [f"tenant-{n}" for n in range(tenants)]
    shards = [bits(placement.shard(name)) for name in names]
    owners = [bits(placement.owners(ModelRef(name, "m"))) for name in names]
    nothing = whole = replicas = 0
    for abuser in range(abusers):
        own = shards[abuser]
        nothing += sum(not own & other for other in shards)
        whole += sum(own & other == other for other in shards) - 1
        replicas += sum(own & other == other for other in owners) - 1
    pairs = abusers * (tenants - 1)
    return Sharing(nothing / pairs, whole / pairs, replicas / pairs)


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def row(words: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, words)) + " |"


def harm(tenants: int, abusers: int) -> None:
    print(row(["N", "k", "R", "formula", "1 zone", "of the formula", "3 zones"]))
    print(row(["---:"] * 7))
    for members in (8, 16, 32, 64, 100):
        for size in (3, 4, 5):
            for replicas in (1, 2, 3):
                expected = loss_chance(members, size, replicas)
                one, three = (
                    measure(Placement(fleet(members, zones), replicas=replicas, shard_size=size), tenants, abusers)
                    for zones in (1, 3)
                )
                shares = [percent(expected), percent(one.all_replicas), f"{one.all_replicas / expected:.2f}"]
                print(row([members, size, replicas, *shares, percent(three.all_replicas)]))


def sharing(tenants: int, abusers: int) -> None:
    print(row(["N", "k", "share nothing", "formula", "3 zones", "same shard", "1/C(N,k)", "3 zones"]))
    print(row(["---:"] * 8))
    for members in (8, 16, 32, 64, 100):
        for size in (3, 4, 5):
            one, three = (
                measure(Placement(fleet(members, zones), shard_size=size), tenants, abusers) for zones in (1, 3)
            )
            nothing = [percent(one.nothing), percent(overlap_chance(members, size, 0, size)), percent(three.nothing)]
            whole = [percent(one.whole_shard), percent(1 / comb(members, size)), percent(three.whole_shard)]
            print(row([members, size, *nothing, *whole]))


def movement(tenants: int) -> None:
    print(row(["N", "k", "places lost with one member", "other places moved", "most in one shard"]))
    print(row(["---:"] * 5))
    for members in (8, 16, 32, 64, 100):
        size, whole = 4, fleet(members, 3)
        before, after = Placement(whole, shard_size=size), Placement(whole[1:], shard_size=size)
        lost = other = most = 0
        for n in range(tenants):
            gone = bits(before.shard(f"tenant-{n}")) & ~bits(after.shard(f"tenant-{n}"))
            lost += gone & 1
            other += (gone >> 1).bit_count()
            most = max(most, gone.bit_count())
        print(row([members, size, percent(lost / tenants / size), other, most]))


def premium() -> None:
    print(row(["N", "k", "R", "premium tenants", "share most, chosen alike", "share most, premium"]))
    print(row(["---:"] * 6))
    for members, size, replicas in ((16, 4, 2), (32, 4, 2), (100, 5, 2), (100, 5, 3)):
        for count in (5, 10, 20, 50, 100, 200):
            rules = {f"p{n}": ShardRule(size, premium=True, since=f"{n:04}") for n in range(count)}
            chosen = Placement(fleet(members, 3), replicas=replicas, rules=rules)
            alike = Placement(fleet(members, 3), replicas=replicas, shard_size=size)
            print(row([members, size, replicas, count, most_shared(alike, rules), most_shared(chosen, rules)]))


def most_shared(placement: Placement, names: dict[str, ShardRule]) -> int:
    shards = [bits(placement.shard(name)) for name in names]
    return max((one & other).bit_count() for one, other in combinations(shards, 2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shards")
    parser.add_argument("--tenants", type=int, default=3000)
    parser.add_argument("--abusers", type=int, default=100)
    args = parser.parse_args()
    harm(args.tenants, args.abusers)
    print()
    sharing(args.tenants, args.abusers)
    print()
    movement(args.tenants)
    print()
    premium()


if __name__ == "__main__":
    main()
