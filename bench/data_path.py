"""What a Score request costs in a router and in a scorer, beside Envoy and a plain grpc.aio router.

    python -m bench.data_path [--quick] [--rounds 3] [--run-s 2.0] [--profile] [--before CHECKOUT]

Starts an etcd, three scorers and every router on this machine, publishes LightGBM models, and has h2load send Score
requests of one row for resident models. Targets take turns in each round. Prints a table and the goals, and writes
docs/benchmarks/data_path.json and the README beside it (not with --quick). `--profile` shows instead which functions of
the router and of a scorer take the time, and writes docs/benchmarks/data_path_profile.md. `--before` compares this
router with that of another checkout of the repository (`git worktree add /tmp/before COMMIT`) in the same rounds, and
with nothing else; it writes no file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import envoy, fleet, load, models, profiling, report
from bench.measure import CELLS, Bench

RESULTS = Path(__file__).parent.parent / "docs" / "benchmarks"
MODELS = 24
QUICK_CELLS = ("1", "32", "32 traced")


def main() -> None:
    """Run."""
    args = _arguments()
    if not load.is_installed():
        sys.exit(load.HOW_TO_GET)
    with tempfile.TemporaryDirectory(prefix="scoremesh-bench-") as directory:
        if args.profile:
            profiling.run(Path(directory), RESULTS / "data_path_profile.md", models.train(Path(directory), MODELS))
        else:
            _compare(args, Path(directory))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: fewer patterns of load, short runs, no file"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run-s", type=float, default=None, help="seconds that one run takes; default 2, quick 0.6")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--before", type=Path, help="another checkout, whose router is compared with this one's")
    args = parser.parse_args()
    args.run_s = args.run_s or (0.6 if args.quick else 2.0)
    return args


def _compare(args: argparse.Namespace, directory: Path) -> None:
    cells = [cell for cell in CELLS if not args.quick or cell.name in QUICK_CELLS]
    trained = models.train(directory, MODELS)
    with fleet.running(directory, trained, _targets(args), args.before) as running:
        runs = list(Bench(running, trained, args.run_s, directory).rounds(args.rounds, cells, _say))
    print(report.table(runs), report.goal_table(report.goals(runs)), sep="\n\n")
    if not args.quick and args.before is None:
        what = {"rounds": args.rounds, "run_s": args.run_s, "models": MODELS, "trees": models.TREES}
        report.save(RESULTS / "data_path.json", runs, {**what, "scorers": fleet.SCORERS, "pins": fleet.pins()})
        report.insert(RESULTS / "README.md", runs)


def _targets(args: argparse.Namespace) -> list[str]:
    if args.before is not None:
        return [fleet.OURS]
    if envoy.binary() is None:
        _say(envoy.HOW_TO_GET)
    return [name for name in fleet.TARGETS if name != fleet.ENVOY or envoy.binary() is not None]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
