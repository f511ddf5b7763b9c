"""The table and the plot of `bench.abuse`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLUMNS = (
    *("mode", "abuse", "others' p50", "p99", "a second's p99", "errors", "apart p99", "a second's p99", "errors"),
    *("abuser answered", "refused", "crashes"),
)


def table(found: Sequence[dict[str, Any]]) -> str:
    """As markdown. "apart": those that share no member with the abuser; there are none without shards. "a second's
    p99": the median of those of all seconds.
    """
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| --- | --- |" + " ---: |" * (len(_COLUMNS) - 2)]
    for each in found:
        victims, abuser = each["victims"], each["abuser"]
        cells = [each["mode"], each["abuse"], _ms(victims["all"]["p50_ms"]), *_figures(victims["all"])]
        cells += _figures(victims["0"]) if "0" in victims else ["-"] * 3
        cells += [f"{abuser[what]:.0f}/s" for what in ("answered_per_s", "refused_per_s")] if abuser else ["-", "-"]
        lines.append("| " + " | ".join([*cells, str(each["crashes"])]) + " |")
    return "\n".join(lines)


def _figures(of: dict[str, Any]) -> list[str]:
    return [_ms(of["p99_ms"]), _ms(of["typical_p99_ms"]), f"{of['errors'] * 100:.2f} %"]


def _ms(latency_ms: float | None) -> str:
    return "-" if latency_ms is None else f"{latency_ms:.1f} ms"


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """A second's p99 and errors of all victims, and of those apart, for each mode beside each other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    abuses = list(dict.fromkeys(each["abuse"] for each in found))
    figure, (latency, errors) = pyplot.subplots(2, 1, figsize=(11, 6.5), sharex=True)
    bars = [
        ("plain hashing", "all", "#b91c1c"),
        ("shards", "all", "#d97706"),
        ("shards", "0", "#fcd34d"),
        ("shards and admission", "all", "#2563eb"),
        ("shards and admission", "0", "#93c5fd"),
    ]
    for place, (mode, who, colour) in enumerate(bars):
        of = {each["abuse"]: each["victims"][who] for each in found if each["mode"] == mode}
        xs = [number + (place - 2) * 0.16 for number in range(len(abuses))]
        label = mode + (", who shares no member" if who == "0" else "")
        latency.bar(xs, [of[abuse]["typical_p99_ms"] or 0.0 for abuse in abuses], 0.15, color=colour, label=label)
        errors.bar(xs, [of[abuse]["errors"] * 100 for abuse in abuses], 0.15, color=colour)
    latency.set(yscale="log", ylabel="the others: a second's p99, ms")
    errors.set(ylabel="the others: errors, %")
    errors.set_xticks(range(len(abuses)), abuses)
    for axis in (latency, errors):
        axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="upper center", ncol=3)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.savefig(path, dpi=80)
