"""What stays flat and what grows: with 1,000 to 300,000 models, with 3 to 300 members.

    python -m bench.scale [--quick] [--models 1000,10000,100000,300000] [--members 3,30,300] [--rounds 8] [--seconds 5]
        [--part catalogues|members]

The first time it makes the catalogues and keeps them (about 20 GB of small files under ~/.cache/scoremesh; 300,000
models take some minutes). Everything runs on 127.0.0.1; servers share one core, the load has another one. Writes
docs/benchmarks/scale.json, scale.svg and the tables of scale.md, but not with --quick.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from bench.peers.report import begin
from bench.scale import growth, members, report
from bench.scale.catalogues import ensure

RESULTS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"


def main() -> None:
    """Run."""
    args = _arguments()
    begin()
    _share_one_core()
    with tempfile.TemporaryDirectory(prefix="scoremesh-scale-") as name:
        asyncio.run(_measure(args, Path(name)))


async def _measure(args: argparse.Namespace, directory: Path) -> None:
    settings = {"rounds": args.rounds, "seconds": args.seconds, "walk_s": args.walk_s, "rate": growth.RATE}
    settings |= {"working_set": growth.WORKING_SET, "capacity_mib": growth.CAPACITY_MIB}
    sizes = [int(word) for word in args.models.split(",")]
    if args.part != report.MEMBERS:
        grown = await growth.measure(directory, sizes, args.rounds, args.seconds, args.walk_s, _say)
        print(report.goals_table(grown), report.growth_table(grown), sep="\n\n", flush=True)
        if not args.quick:
            report.save_growth(RESULTS, grown, settings)
    if args.part != report.CATALOGUES:
        counts = [int(word) for word in args.members.split(",")]
        smallest = ensure(min(sizes), _say)
        found = await members.measure(directory, smallest, counts, min(args.rounds, 6), args.seconds, _say)
        print(report.members_table(found), report.changes_table(found), sep="\n\n", flush=True)
        if not args.quick:
            report.save_members(RESULTS, found, settings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small catalogues, few members, no file")
    parser.add_argument("--models", default=None)
    parser.add_argument("--members", default=None)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None, help="of one load")
    parser.add_argument("--part", choices=report.PARTS, help="only this one; the figures of the other stay")
    args = parser.parse_args()
    args.models = args.models or ("1000,10000" if args.quick else "1000,10000,100000,300000")
    args.members = args.members or ("3,30" if args.quick else "3,30,300")
    args.rounds = args.rounds or (2 if args.quick else 8)
    args.seconds = args.seconds or (1.5 if args.quick else 5.0)
    args.walk_s = 4.0 if args.quick else 20.0
    return args


def _share_one_core() -> None:
    """Of this process and all that it starts; the load is moved to another one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
