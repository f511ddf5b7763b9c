"""The measurement: rounds in which the targets take turns, and the CPU time that each run cost each process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.fleet import Fleet, Target, check, pins
from bench.load import Cell, LoadResult, run
from bench.models import BenchModel
from registry.placement import Placement

ALONE = 1
CELLS = (
    Cell("1", 1, 1),
    Cell("32", 1, 32),
    Cell("256", 1, 256),
    Cell("8x32", 8, 32),
    Cell("32 traced", 1, 32, traced=True),
)
_FIRST_RUN_REQUESTS = 400


class Run(NamedTuple):
    """One run of one target. CPU in microseconds a request, user and system time of all threads; `scorers_us` is the
    sum over the scorers. `router_us` is 0 where there is no router.
    """

    target: str
    cell: str
    round: int
    router_us: float
    scorers_us: float
    load: LoadResult


class Choice:
    """Which models a run asks for: a run with one model takes one of another scorer each round, a run with several
    takes all, so that the scorers share the work.
    """

    def __init__(self, fleet: Fleet, models: Sequence[BenchModel]) -> None:
        placement = Placement(fleet.members)
        self._models = models
        owner = {model: placement.owners(model.ref)[0].id for model in models}
        self._by_owner = [[m for m in models if owner[m] == member.id] for member in fleet.members]
        if not all(self._by_owner):
            raise RuntimeError("a scorer owns none of the models; train more of them")

    def models(self, cell: Cell, round_number: int) -> list[BenchModel]:
        """One model for each process of the load."""
        if cell.processes == ALONE:
            return [self._by_owner[round_number % len(self._by_owner)][0]]
        # One of each scorer in turn: 3, 3 and 2 models of three scorers.
        turns = range(cell.processes)
        owners = len(self._by_owner)
        return [self._by_owner[i % owners][i // owners % len(self._by_owner[i % owners])] for i in turns]


class Bench:
    """Runs on one fleet. `run_s`: how long a run shall take; `directory`: for h2load's logs."""

    def __init__(self, fleet: Fleet, models: Sequence[BenchModel], run_s: float, directory: Path) -> None:
        self._fleet = fleet
        self._choice = Choice(fleet, models)
        self._run_s = run_s
        self._directory = directory
        self._rates: dict[tuple[str, str], float] = {}

    def rounds(self, count: int, cells: Sequence[Cell], say: Callable[[str], None]) -> Iterator[Run]:
        """`count` rounds; in each one every cell, and in it every target. The first target of a cell changes, so that
        none is always the one that comes after another.
        """
        for number in range(count):
            for cell in cells:
                say(f"round {number + 1} of {count}: {cell.name} in flight")
                shift = number % len(self._fleet.targets)
                for target in (*self._fleet.targets[shift:], *self._fleet.targets[:shift]):
                    yield self.measure(target, cell, number)

    def measure(self, target: Target, cell: Cell, round_number: int) -> Run:
        """One run, between two checks that the target's predictions are right."""
        models = self._choice.models(cell, round_number)
        check(target, models)
        key = (target.name, cell.name)
        if key not in self._rates:
            self._rates[key] = self._load(target, cell, models, _FIRST_RUN_REQUESTS).requests_per_s
        requests = max(int(self._rates[key] * self._run_s), 4 * cell.streams * cell.processes)
        before = self._cpu_s(target)
        load = self._load(target, cell, models, requests)
        router_s, scorers_s = (after - b for after, b in zip(self._cpu_s(target), before, strict=True))
        check(target, models)
        self._rates[key] = load.requests_per_s
        us = 1e6 / load.requests
        return Run(target.name, cell.name, round_number, router_s * us, scorers_s * us, load)

    def _load(self, target: Target, cell: Cell, models: Sequence[BenchModel], requests: int) -> LoadResult:
        return run(target.port, cell, models, requests, self._directory, pins()[1])

    def _cpu_s(self, target: Target) -> tuple[float, float]:
        router_s = process_cpu_s(target.pid) if target.pid else 0.0
        return router_s, sum(process_cpu_s(pid) for pid in self._fleet.scorer_pids)


def process_cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads, also those that have ended: what /proc/<pid>/stat calls
    utime + stime, but in nanoseconds instead of ticks of 10 ms. The number of the clock is the kernel's
    (MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED, as clock_getcpuclockid(3) makes it).
    """
    return time.clock_gettime(~pid << 3 | 2)
