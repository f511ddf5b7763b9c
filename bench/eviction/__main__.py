"""Which models a scorer should keep: python -m bench.eviction

Replays traces against policies, ours and others, beside what one could do who knows the future; prints the tables of
docs/benchmarks/eviction.md and draws its plot. `--variants` replays ours with other settings instead, `--speed`
measures what the policy itself costs. No servers, no models: some minutes of two processors.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.eviction import speed
from bench.eviction.replay import BOUND, POLICIES, Case, Found, run_all
from bench.eviction.traces import PATTERNS
from bench.registry_common import machine

SHARES = (0.01, 0.03, 0.1, 0.5)
SHOWN_SHARE = 0.1
_WINDOW = "scorer.eviction.segments.WINDOW"
_HALF_LIFE = "scorer.eviction.demand.HALF_LIFE_S"
_TURNOVERS = "scorer.eviction.demand.TURNOVERS"
_SAMPLE = "scorer.eviction.selection.SAMPLE"
_DOUBTFUL = "scorer.eviction.selection.DOUBTFUL"
_REMEMBERED = "scorer.eviction.demand.REMEMBERED"
_LEAST_REMEMBERED = "scorer.eviction.demand._LEAST_REMEMBERED"
VARIANTS: dict[str, tuple[tuple[str, float], ...]] = {
    "as it is": (),
    **{f"window {share:.0%}": ((_WINDOW, share),) for share in (0.0, 0.03, 0.3)},
    **{f"half-life {seconds} s": ((_HALF_LIFE, seconds), (_TURNOVERS, 1e-9)) for seconds in (15, 60, 240)},
    **{
        f"half-life {turnovers} turnovers": ((_HALF_LIFE, 1e-3), (_TURNOVERS, turnovers))
        for turnovers in (1, 3, 10, 30)
    },
    **{f"sample {count}": ((_SAMPLE, count),) for count in (4, 64)},
    "sample 16, none doubtful": ((_DOUBTFUL, 0),),
    "nothing remembered": ((_REMEMBERED, 0), (_LEAST_REMEMBERED, 0)),
    "remembered 1 for 1": ((_REMEMBERED, 1), (_LEAST_REMEMBERED, 0)),
}
VARIED = ("zipf 0.6", "zipf 0.9", "shifts", "scans", "tenants", "loop", "bursts")


def reload_table(found: Mapping[Case, Found]) -> str:
    """Microseconds of loads for each request, by pattern and memory."""
    lines = ["| requests | memory | " + " | ".join([*POLICIES, BOUND]) + " |", "| --- | ---: |" + " ---: |" * 8]
    for pattern in PATTERNS:
        for share in SHARES:
            us = [found[Case(pattern, share, policy)].reload_us for policy in (*POLICIES, BOUND)]
            best = min(us[: len(POLICIES) - 1])
            cells = " | ".join(f"**{each:,.0f}**" if each == best else f"{each:,.0f}" for each in us)
            lines.append(f"| {pattern} | {share:.0%} | {cells} |")
    return "\n".join(lines)


def hit_table(found: Mapping[Case, Found]) -> str:
    """Hit rates by request and by byte, at one memory."""
    lines = ["| requests | " + " | ".join(POLICIES) + " |", "| --- |" + " ---: |" * len(POLICIES)]
    for pattern in PATTERNS:
        some = [found[Case(pattern, SHOWN_SHARE, policy)] for policy in POLICIES]
        cells = " | ".join(f"{each.hit_rate * 100:.1f} / {each.byte_hit_rate * 100:.1f}" for each in some)
        lines.append(f"| {pattern} | {cells} |")
    return "\n".join(lines)


def variants_table(found: Mapping[Case, Found]) -> str:
    """Microseconds of loads for each request, by setting."""
    lines = ["| ours | " + " | ".join(VARIED) + " |", "| --- |" + " ---: |" * len(VARIED)]
    for name, settings in VARIANTS.items():
        us = [found[Case(pattern, SHOWN_SHARE, "ours", settings)].reload_us for pattern in VARIED]
        lines.append(f"| {name} | " + " | ".join(f"{each:,.0f}" for each in us) + " |")
    return "\n".join(lines)


def draw(found: Mapping[Case, Found], path: Path) -> None:
    """Microseconds of loads for each request over the bound, by memory; one panel a pattern."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True)
    for axis, pattern in zip(axes.flat, PATTERNS, strict=True):
        for policy in POLICIES:
            bound = [found[Case(pattern, share, BOUND)].reload_us for share in SHARES]
            us = [found[Case(pattern, share, policy)].reload_us for share in SHARES]
            ratio = [max(1.0, each) / max(1.0, least) for each, least in zip(us, bound, strict=True)]
            style = {"lw": 2.4, "color": "black"} if policy == "ours" else {"lw": 1.1}
            axis.plot([share * 100 for share in SHARES], ratio, marker=".", label=policy, **style)
        axis.set(title=pattern, xscale="log", yscale="log", ylim=(0.95, 35))
        axis.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        axis.set_xticks([1, 3, 10, 50], ["1", "3", "10", "50"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.supxlabel("memory, % of the catalogue's bytes")
    figure.supylabel("time of loads, as a multiple of the offline bound")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="upper center", ncol=len(POLICIES))
    figure.tight_layout(rect=(0.02, 0, 1, 0.95))
    figure.savefig(path, dpi=80)


def run_and_keep(cases: Sequence[Case], processes: int, path: Path | None) -> dict[Case, Found]:
    found = run_all(cases, processes)
    if path:
        rows = [{**case._asdict(), **each._asdict()} for case, each in found.items()]
        path.write_text(json.dumps(rows, indent=0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", action="store_true", help="ours with other settings")
    parser.add_argument("--speed", action="store_true", help="what the policy itself costs")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path, help="draw what was found there, as PNG")
    parser.add_argument("--json", type=Path, help="also write what was found there")
    args = parser.parse_args()
    print(machine())
    if args.speed:
        print(speed.table())
    elif args.variants:
        cases = [Case(each, SHOWN_SHARE, "ours", settings) for settings in VARIANTS.values() for each in VARIED]
        print(variants_table(run_and_keep(cases, args.processes, args.json)))
    else:
        cases = [Case(*each) for each in _product()]
        found = run_and_keep(cases, args.processes, args.json)
        print(reload_table(found), hit_table(found), sep="\n\n")
        if args.plot:
            draw(found, args.plot)


def _product() -> list[tuple[str, float, str]]:
    return [(pattern, share, policy) for pattern in PATTERNS for share in SHARES for policy in (*POLICIES, BOUND)]


if __name__ == "__main__":
    main()
