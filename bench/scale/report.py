"""What `bench.scale` says: tables, goals, a JSON file with every figure, a plot."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.report import insert, load_averages, row, spread
from bench.report import commit, machine, versions
from bench.scale.growth import Growth, Size, Turn, Walk
from bench.scale.members import Members

FLAT = 0.05
CATALOGUES, MEMBERS = PARTS = ("catalogues", "members")
Figure = Callable[[Any], float]


def line(name: str, cells: Sequence[str]) -> str:
    """One figure, a column for each size."""
    return row([name, *cells])


def _head(what: str, sizes: Sequence[int]) -> list[str]:
    return [row([what, *(f"{size:,}" for size in sizes)]), row(["---", *(["---:"] * len(sizes))])]


def _of(runs: Sequence[Any], sizes: Sequence[int], figure: Figure, digits: int) -> list[str]:
    return [spread([figure(run) for run in runs if run[0] == size], digits) for size in sizes]


def growth_table(growth: Growth) -> str:
    """Markdown: what one column of the catalogue's size changes."""
    sizes = [size.models for size in growth.sizes]
    lines = _head("models", sizes)
    for name, figure, digits in _TURNS:
        lines.append(line(name, _of(growth.turns, sizes, figure, digits)))
    for name, text in _SIZES:
        lines.append(line(name, [text(size) for size in growth.sizes]))
    for name, said in _WALKS:
        lines.append(line(name, [said(walk) for walk in growth.walks]))
    return "\n".join(lines)


_TURNS: Sequence[tuple[str, Callable[[Turn], float], int]] = (
    ("resident: p50 ms", lambda turn: turn.p50_ms, 3),
    ("resident: p99 ms", lambda turn: turn.p99_ms, 2),
    ("resident: share in memory", lambda turn: turn.warm_share, 3),
    ("router: CPU us a request", lambda turn: turn.router_us, 0),
    ("three scorers: CPU us a request", lambda turn: turn.scorers_us, 0),
    ("router: memory MiB", lambda turn: turn.router_mib, 1),
    ("a scorer: memory MiB", lambda turn: turn.scorer_mib, 1),
    ("etcd: reads during a run", lambda turn: turn.etcd_reads, 0),
    ("etcd: reads in as long without requests", lambda turn: turn.idle_reads, 0),
    ("requests of a run", lambda turn: turn.requests, 0),
)
_SIZES: Sequence[tuple[str, Callable[[Size], str]]] = (
    ("etcd: database MiB", lambda size: f"{size.etcd_mib:.1f}"),
    ("etcd: memory MiB", lambda size: f"{size.etcd_rss_mib:.0f}"),
    ("etcd: start s", lambda size: f"{size.etcd_start_s:.1f}"),
    ("a router: start to ready s", lambda size: spread(size.router_ready_s, 2)),
    ("a scorer: start to ready s", lambda size: spread(size.scorer_ready_s, 2)),
    ("catalogue: made in s", lambda size: f"{size.made_s:,.0f}"),
)


def _kind(kind: str) -> Callable[[Walk], str]:
    def text(walk: Walk) -> str:
        if kind not in walk.counts:
            return "none"
        return f"{walk.counts[kind]:,}: {walk.p50_ms[kind]:.1f} / {walk.p99_ms[kind]:.0f}"

    return text


_WALKS: Sequence[tuple[str, Callable[[Walk], str]]] = (
    ("walk: from memory, p50 / p99 ms", _kind("warm")),
    ("walk: from disk, p50 / p99 ms", _kind("disk")),
    ("walk: from object storage, p50 / p99 ms", _kind("cold")),
    ("walk: failed", lambda walk: str(sum(walk.errors.values()))),
    ("walk: etcd's reads", lambda walk: f"{walk.etcd_reads:,}"),
    ("after it: router, a scorer, memory MiB", lambda walk: f"{walk.router_mib:.0f}, {walk.scorer_mib:.0f}"),
)


def members_table(members: Members) -> str:
    """Markdown, a column for each number of members."""
    counts = [size.members for size in members.sizes]
    lines = _head("members", counts)
    for name, figure, digits in _MEMBER_TURNS:
        lines.append(line(name, _of(members.turns, counts, figure, digits)))
    for name, text in _MEMBER_SIZES:
        lines.append(line(name, [text(size) for size in members.sizes]))
    return "\n".join(lines)


_MEMBER_TURNS: Sequence[tuple[str, Figure, int]] = (
    ("p50 ms", lambda turn: turn.p50_ms, 3),
    ("p99 ms", lambda turn: turn.p99_ms, 2),
    ("router: CPU us a request", lambda turn: turn.router_us, 0),
    ("three scorers: CPU us a request", lambda turn: turn.scorers_us, 0),
    ("router: memory MiB", lambda turn: turn.router_mib, 1),
)
_MEMBER_SIZES: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("change of a member to applied, ms", lambda size: spread(size.applied_ms, 1)),
    ("a new placement, us", lambda size: f"{size.placement_us:,.0f}"),
    ("place a new model, us", lambda size: f"{size.new_model_us:.1f}"),
    ("place a known model, us", lambda size: f"{size.known_model_us:.2f}"),
    ("models that move when one goes", lambda size: f"{size.moved:.1%}"),
    ("etcd: reads a second without requests", lambda size: f"{size.etcd_reads_per_s:.1f}"),
    ("a router: start to ready s", lambda size: spread(size.router_ready_s, 2)),
)


def changes_table(members: Members) -> str:
    """Markdown: what a real scorer's going and coming takes."""
    figures: Sequence[tuple[str, Figure, int]] = (
        ("SIGTERM to its last answer, s", lambda change: change.last_answer_s, 2),
        ("SIGTERM to its end, s", lambda change: change.ended_s, 2),
        ("start to its first answer, s", lambda change: change.first_answer_s, 2),
        ("requests meanwhile", lambda change: change.requests, 0),
        ("of these failed", lambda change: change.failed, 0),
    )
    lines = [row(["a scorer of three goes and comes", ""]), row(["---", "---:"])]
    lines += [row([name, spread([of(each) for each in members.changes], digits)]) for name, of, digits in figures]
    return "\n".join(lines)


def goals(growth: Growth) -> list[dict[str, Any]]:
    """Flatness: each figure's ratio to that of the smallest catalogue in the same round; and reads of etcd."""
    sizes = sorted(size.models for size in growth.sizes)
    small, large = sizes[0], sizes[-1]
    found: list[dict[str, Any]] = []
    figures: Sequence[tuple[str, Callable[[Turn], float]]] = (
        ("resident p50", lambda turn: turn.p50_ms),
        ("router CPU time a request", lambda turn: turn.router_us),
        ("scorers' CPU time a request", lambda turn: turn.scorers_us),
        ("router memory", lambda turn: turn.router_mib),
        ("scorer memory", lambda turn: turn.scorer_mib),
    )
    for name, figure in figures:
        base = {turn.round: figure(turn) for turn in growth.turns if turn.models == small}
        ratios = [figure(turn) / base[turn.round] for turn in growth.turns if turn.models == large]
        middle = statistics.median(ratios)
        found.append({"figure": f"{name}, {large:,} to {small:,} models", "ratio": spread(ratios, 3)})
        found[-1] |= {"goal": "at most 1.05", "met": middle <= 1 + FLAT}
    resident = [turn for turn in growth.turns if turn.warm_share == 1]  # A model that is loaded is looked up, once.
    reads = sum(turn.etcd_reads - turn.idle_reads for turn in resident)
    scores = max(1, sum(turn.requests for turn in resident))
    found.append({"figure": "etcd's reads a score, less those without requests", "ratio": f"{reads / scores:.5f}"})
    found[-1] |= {"goal": "none", "met": reads / scores < 0.001}
    return found


def goals_table(growth: Growth) -> str:
    """Markdown of `goals`."""
    lines = [row(["figure", "median (lowest-highest round)", "goal", ""]), row(["---", "---:", "---:", "---"])]
    lines += [
        row([goal["figure"], goal["ratio"], goal["goal"], "met" if goal["met"] else "missed"]) for goal in goals(growth)
    ]
    return "\n".join(lines)


def save_growth(folder: Path, growth: Growth, settings: dict[str, Any]) -> None:
    """Write scale.svg, and this part of scale.json and scale.md."""
    plot(folder / "scale.svg", growth)
    _save(folder, CATALOGUES, growth, settings, [goals_table(growth), growth_table(growth)])


def save_members(folder: Path, members: Members, settings: dict[str, Any]) -> None:
    """Write this part of scale.json and scale.md."""
    _save(folder, MEMBERS, members, settings, [members_table(members), changes_table(members)])


def _save(folder: Path, part: str, found: Growth | Members, settings: dict[str, Any], tables: Sequence[str]) -> None:
    """The part that isn't measured now stays as it is."""
    file = folder / "scale.json"
    document = json.loads(file.read_text()) if file.exists() else {}
    facts = {**machine(), "load_average_at_the_begin": load_averages()[0], "commit": commit(), **versions()}
    command = " ".join(["python -m bench.scale", *sys.argv[1:]])
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    said = "; ".join(f"{name} {value}" for name, value in facts.items())
    document[part] = {
        "page": [f"`{command}`, {when}. {said}.", *tables],
        "when": when,
        "command": command,
        "facts": facts,
        "settings": settings,
        **{name: [each._asdict() for each in rows] for name, rows in found._asdict().items()},
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    insert(folder / "scale.md", [block for each in PARTS if each in document for block in document[each]["page"]])


def plot(path: Path, growth: Growth) -> None:
    """By the catalogue's size: what stays flat, and etcd's size, each in proportion to the smallest catalogue."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scoremesh"
    from matplotlib import pyplot as plt

    sizes = [size.models for size in growth.sizes]
    lines: dict[str, list[float]] = {
        "resident p50": _medians(growth.turns, sizes, lambda turn: turn.p50_ms),
        "router memory": _medians(growth.turns, sizes, lambda turn: turn.router_mib),
        "scorer memory": _medians(growth.turns, sizes, lambda turn: turn.scorer_mib),
        "router start to ready": [statistics.median(size.router_ready_s) for size in growth.sizes],
        "scorer start to ready": [statistics.median(size.scorer_ready_s) for size in growth.sizes],
        "etcd's database": [size.etcd_mib for size in growth.sizes],
    }
    figure, axis = plt.subplots(figsize=(7, 4))
    for name, values in lines.items():
        axis.plot(sizes, [value / values[0] for value in values], marker="o", label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("models")
    axis.set_ylabel(f"in proportion to {sizes[0]:,} models")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _medians(turns: Sequence[Turn], sizes: Sequence[int], figure: Callable[[Turn], float]) -> list[float]:
    return [statistics.median(figure(turn) for turn in turns if turn.models == size) for size in sizes]
