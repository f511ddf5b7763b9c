"""What the load generator itself costs: CPU time a request to a server that answers at once, and how late it sends.

    python -m bench.generator [--rounds 3] [--seconds 3]

CPU time is that of the sending process alone. "as fast as it can": everything is due at once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from typing import NamedTuple

import msgspec

from bench.registry_common import machine
from ops.load.generator import null_server, run_spec
from ops.load.percentiles import latency_of
from ops.load.spec import LoadModel, LoadSpec, Target, TenantClass

_RATES = (200.0, 1000.0, 5000.0)
_BURST = 20_000
_BURST_RATE = 1e6


class Cost(NamedTuple):
    """Of one run. `late_ms`: p50 and p99."""

    cpu_us: float
    per_s: float
    late_ms: tuple[float, float]


async def _run(target: Target, rate: float, seconds: float) -> Cost:
    spec = LoadSpec(
        target=target,
        addresses=("127.0.0.1:1",),
        models=tuple(LoadModel("nobody", f"m{number}", 30) for number in range(1000)),
        classes=(TenantClass(name="all", rate=rate),),
        duration_s=_BURST / rate if rate == _BURST_RATE else seconds,
        warm_up_s=0.0,
        deadline_s=120.0,
        batch=16 if target is Target.BATCH else 1,
    )
    async with null_server(spec) as port:
        spec = msgspec.structs.replace(spec, addresses=(f"127.0.0.1:{port}",))
        outcomes, [last] = await run_spec(spec, lambda _progress: None)
    if last.failed:
        raise RuntimeError(f"{last.failed} requests failed: {last.examples}")
    late = latency_of(outcomes.lateness_s).quantiles_ms
    return Cost(last.cpu_s * 1e6 / len(outcomes), len(outcomes) / float(outcomes.done_s.max()), (late[0], late[3]))


async def _main(rounds: int, seconds: float) -> None:
    print(machine())
    cells = [(target, rate) for target in Target for rate in (*_RATES, _BURST_RATE)]
    found: dict[tuple[Target, float], list[Cost]] = {cell: [] for cell in cells}
    for _ in range(rounds):
        for cell in cells:
            found[cell].append(await _run(*cell, seconds))
    print("| target | requests a second | CPU us a request | left late, p50 ms | p99 ms |\n|---|---:|---:|---:|---:|")
    for (target, rate), runs in found.items():
        cpu = sorted(run.cpu_us for run in runs)
        told = f"{rate:,.0f}" if rate != _BURST_RATE else f"as fast as it can: {max(run.per_s for run in runs):,.0f}"
        late = [statistics.median(run.late_ms[place] for run in runs) for place in (0, 1)]
        lateness = f"{late[0]:.3f} | {late[1]:.2f}" if rate != _BURST_RATE else " | "
        print(f"| {target.value} | {told} | {statistics.median(cpu):.1f} ({cpu[0]:.1f}-{cpu[-1]:.1f}) | {lateness} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.rounds, arguments.seconds))
