"""What the comparison says: tables, goals, a JSON file with every turn, a plot."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.fleet import OURS
from bench.peers.loads import Fixed, Saturated
from bench.peers.many import ManyRun
from bench.peers.measure import COMMON_RATE, Turn
from bench.report import commit, machine, versions

GOALS = {
    "MLServer": 10.0,
    "Ray Serve": 20.0,
    "Triton, Python backend": 5.0,
    "Triton, Python backend, dynamic batching": 5.0,
    "grpc.aio router + our scorer": 8.0,
}
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"
_loads: list[list[float]] = []
Figure = Callable[[Any], float]


def begin() -> None:
    """Note how busy the machine is before anything was started."""
    _loads.append([round(load, 2) for load in os.getloadavg()])


def load_averages() -> list[list[float]]:
    """What `begin` noted."""
    return _loads


def row(words: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(words) + " |"


def spread(values: Sequence[float], digits: int) -> str:
    """The median with the lowest and the highest."""
    if not values:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def ratios(turns: Sequence[Turn], other: str, figure: Figure) -> list[float]:
    """Ours to another's, turn by turn: those of a round share the noise of its minutes."""
    ours = {turn.round: figure(turn) for turn in turns if turn.server == OURS}
    return [ours[turn.round] / figure(turn) for turn in turns if turn.server == other and turn.round in ours]


def _rate(turn: Turn) -> float:
    return turn.best.requests_per_s


def _cpu(turn: Turn) -> float:
    return turn.cpu_us


def table(turns: Sequence[Turn]) -> str:
    """Markdown, one line a server."""
    head = ["server", "requests/s", "CPU us a request", "ours is so many times faster", "p50 / p99 ms at half of that"]
    head += [f"p50 / p99 ms at {COMMON_RATE:g}/s", "idle, of a core", "memory MiB"]
    lines = [row(head), row(["---", *(["---:"] * (len(head) - 1))])]
    for name in dict.fromkeys(turn.server for turn in turns):
        own = [turn for turn in turns if turn.server == name]
        lines.append(
            row(
                [
                    name,
                    spread([_rate(turn) for turn in own], 0),
                    spread([turn.cpu_us for turn in own], 0),
                    "" if name == OURS else spread(ratios(turns, name, _rate), 1),
                    _latencies([turn.half for turn in own]),
                    _latencies([turn.common for turn in own]),
                    f"{statistics.median(turn.idle_share for turn in own):.1%}",
                    f"{statistics.median(turn.rss_mib for turn in own):,.0f}",
                ]
            )
        )
    return "\n".join(lines)


def _latencies(runs: Sequence[Any]) -> str:
    p50, p99 = (statistics.median(getattr(run, name) for run in runs) for name in ("p50_ms", "p99_ms"))
    marks = ("*" if any(run.limited for run in runs) else "") + ("!" if any(run.errors for run in runs) else "")
    return f"{p50:.2f} / {p99:.2f}{marks}"


def goals(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Throughput and CPU time, ours to each other's that there is a goal for. A goal is met when both ratios meet it:
    on a machine with other work throughput depends on what the kernel gives to whom, CPU time doesn't.
    """
    found = []
    for name, goal in GOALS.items():
        rates = ratios(turns, name, _rate)
        if rates:
            middle, cpu = statistics.median(rates), [1 / each for each in ratios(turns, name, _cpu)]
            met = min(middle, statistics.median(cpu)) >= goal
            lines = {"server": name, "goal": goal, "ratio": round(middle, 2), "met": met}
            found.append({**lines, "spread": [round(min(rates), 2), round(max(rates), 2)], "cpu_ratio": spread(cpu, 1)})
    return found


def goal_table(turns: Sequence[Turn]) -> str:
    """Markdown of `goals`."""
    head = ["ours to", "throughput", "CPU time a request, theirs to ours", "goal", "both"]
    lines = [row(head), row(["---", "---:", "---:", "---:", "---"])]
    for goal in goals(turns):
        low, high = goal["spread"]
        verdict = "met" if goal["met"] else "missed"
        lines.append(
            row([goal["server"], f"{goal['ratio']} ({low}-{high})", goal["cpu_ratio"], f"{goal['goal']:g}", verdict])
        )
    return "\n".join(lines)


def many_table(runs: Sequence[ManyRun]) -> str:
    """Markdown, one line a server."""
    head = ["server", "requests/s", "CPU us a request", "p50 ms", "p99 ms", "from memory", "failed", "memory MiB"]
    lines = [row(head), row(["---", *(["---:"] * (len(head) - 1))])]
    for name in dict.fromkeys(run.server for run in runs):
        own = [run for run in runs if run.server == name]
        told = sum(sum(run.where.values()) - run.where.get("not told", 0) for run in own)
        warm = sum(run.where.get("memory", 0) for run in own)
        figures = [(lambda run: run.requests_per_s, 0), (lambda run: run.cpu_us, 0)]
        figures += [(lambda run: run.p50_ms, 2), (lambda run: run.p99_ms, 1)]
        words = [spread([figure(run) for run in own], digits) for figure, digits in figures]
        failed = sum(sum(run.failures.values()) for run in own)
        memory = f"{statistics.median(run.rss_mib for run in own):,.0f}"
        lines.append(row([name, *words, f"{warm / told:.0%}" if told else "not told", str(failed), memory]))
    return "\n".join(lines)


def save(folder: Path, turns: Sequence[Turn], settings: dict[str, Any]) -> None:
    """Write the part with few models into peers.json, and by that the page."""
    _write(folder, {**_run(), "settings": settings, "goals": goals(turns), "turns": [plain(turn) for turn in turns]})


def save_many(folder: Path, runs: Sequence[ManyRun]) -> None:
    """Write the part with many models into peers.json, and by that the page."""
    _write(folder, {"many_run": _run(), "many": [run._asdict() for run in runs]})


def _run() -> dict[str, Any]:
    """What the figures of this run depend on."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": " ".join(["python -m bench.peers", *sys.argv[1:]]),
        "facts": {**machine(), "load_average_at_the_begin": _loads[0], "commit": commit(), **versions()},
    }


def _write(folder: Path, part: dict[str, Any]) -> None:
    path = folder / "peers.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(document | part, indent=1) + "\n")
    write_page(folder)


def write_page(folder: Path) -> None:
    """By peers.json: peers.svg, and the tables between the marks of peers.md."""
    document = json.loads((folder / "peers.json").read_text())
    insert(folder / "peers.md", page_parts(document))
    if document.get("turns"):
        plot(folder / "peers.svg", [_turn(each) for each in document["turns"]])


def page_parts(document: dict[str, Any]) -> list[str]:
    """Markdown by the content of peers.json."""
    turns = [_turn(each) for each in document.get("turns", ())]
    runs = [ManyRun(**each) for each in document.get("many", ())]
    parts = [_head(document), table(turns), goal_table(turns)] if turns else []
    return parts + ([_head(document["many_run"]), many_table(runs)] if runs else [])


def _head(run: dict[str, Any]) -> str:
    said = "; ".join(f"{name} {value}" for name, value in run["facts"].items())
    return f"`{run['command']}`, {run['when']}. {said}."


def plain(turn: Turn) -> dict[str, Any]:
    """As peers.json has it."""
    parts = {"best": turn.best, "half": turn.half, "common": turn.common}
    return {**turn._asdict(), **{name: part._asdict() for name, part in parts.items()}}


def _turn(plain: dict[str, Any]) -> Turn:
    fixed = {name: Fixed(**plain[name]) for name in ("half", "common")}
    return Turn(**{**plain, **fixed, "best": Saturated(**plain["best"])})


def insert(path: Path, parts: Sequence[str]) -> None:
    """Put text between the two marks of a page, which stay."""
    before, _, rest = path.read_text().partition(_BEGIN)
    path.write_text(f"{before}{_BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{_END}{rest.partition(_END)[2]}")


def plot(path: Path, turns: Sequence[Turn]) -> None:
    """Requests a second and CPU time a request, a bar a server, the spread as a line."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scoremesh"
    from matplotlib import pyplot as plt

    names = sorted(dict.fromkeys(turn.server for turn in turns), key=lambda name: _median(turns, name, _rate))
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.4 * len(names) + 1.2), sharey=True)
    for axis, of, title in ((axes[0], _rate, "requests/s on one core"), (axes[1], _cpu, "CPU us a request")):
        middles = [_median(turns, name, of) for name in names]
        ends = [[of(turn) for turn in turns if turn.server == name] for name in names]
        low = [middle - min(each) for middle, each in zip(middles, ends, strict=True)]
        high = [max(each) - middle for middle, each in zip(middles, ends, strict=True)]
        colours = ["#2a6f97" if name == OURS else "#a9b8c2" for name in names]
        axis.barh(names, middles, xerr=[low, high], color=colours, ecolor="#444444", height=0.65)
        axis.set_xscale("log")
        axis.set_title(title, fontsize=10)
        axis.bar_label(axis.containers[-1], [f" {middle:,.0f}" for middle in middles], fontsize=8)
        axis.margins(x=0.2)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _median(turns: Sequence[Turn], name: str, figure: Figure) -> float:
    return statistics.median(figure(turn) for turn in turns if turn.server == name)
