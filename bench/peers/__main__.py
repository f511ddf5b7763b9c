"""This cluster beside other servers of models: throughput, latency, CPU time a request, on this machine.

    python -m bench.peers [--quick] [--rounds 3] [--run-s 2] [--fixed-s 4] [--only mlserver,ray] [--part one|many]

The first time it makes a virtual environment for each of the others (about 4 GB in all, pinned versions). Everything
runs on 127.0.0.1. Servers share one core, the load has another one. Writes docs/benchmarks/peers.json, peers.svg and
the tables of peers.md, but not with --quick.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import load, models
from bench.peers import fleet, many, report, venvs
from bench.peers.measure import Bench

RESULTS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"
MODELS = 4
ONE, MANY = "one", "many"


def main() -> None:
    """Run."""
    args = _arguments()
    if args.page:
        report.write_page(RESULTS)
        return
    if not load.is_installed():
        sys.exit(load.HOW_TO_GET)
    only = tuple(filter(None, args.only.split(",")))
    report.begin()
    with tempfile.TemporaryDirectory(prefix="peers-") as name:  # Ray has sockets in it, whose names mustn't be long.
        directory = Path(name)
        (directory / "one").mkdir()
        trained = models.train(directory, MODELS)
        if args.part != MANY:
            _one(args, directory, trained, only)
        if args.part != ONE:
            _many(args, trained, only)


def _one(args: argparse.Namespace, directory: Path, trained: Sequence[models.BenchModel], only: Sequence[str]) -> None:
    """Few models, all in memory."""
    with fleet.running(directory / "one", trained, only, _say) as servers:
        turns = list(Bench(trained, directory, args.run_s, args.fixed_s).rounds(servers, args.rounds, _say))
    print(report.table(turns), report.goal_table(turns), sep="\n\n", flush=True)
    if not args.quick:
        settings = {"rounds": args.rounds, "run_s": args.run_s, "fixed_s": args.fixed_s, "trees": models.TREES}
        report.save(RESULTS, turns, {**settings, "pins": venvs.PINS})


def _many(args: argparse.Namespace, trained: Sequence[models.BenchModel], only: Sequence[str]) -> None:
    """Many models, few of them popular."""
    runs = many.run(trained[0], args.many_models, args.rounds, args.run_s * 2, only, _say)
    print(report.many_table(runs))
    if not args.quick:
        report.save_many(RESULTS, runs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds, few models, no file")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--run-s", type=float, default=None, help="seconds of a run without pause")
    parser.add_argument("--fixed-s", type=float, default=None, help="seconds of a run at a rate")
    parser.add_argument("--only", default="", help="names of the environments to compare with; default: all")
    parser.add_argument("--page", action="store_true", help="measure nothing; make page and plot of peers.json again")
    parser.add_argument("--part", choices=(ONE, MANY), help="only the part with few models, or with many")
    parser.add_argument("--many-models", type=int, default=None)
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 3)
    args.run_s = args.run_s or (0.5 if args.quick else 2.0)
    args.fixed_s = args.fixed_s or (1.0 if args.quick else 4.0)
    args.many_models = args.many_models or (60 if args.quick else 1000)
    return args


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
