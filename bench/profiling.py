"""Where the CPU time goes in our router and in one scorer, under steady load.

Two sources: the kernel's account of each thread (/proc/<pid>/task), which knows the native threads too, and py-spy,
which knows functions. py-spy's samples of a thread that waits are dropped by the function that it waits in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import fleet, load, report
from bench.load import Cell
from bench.measure import CELLS, Bench, Choice, process_cpu_s
from bench.models import BenchModel

HOW_TO_GET = "py-spy is missing: pip install py-spy"
SAMPLE_S = 5
RATE_HZ = 400
TOP = 25
PROFILED = ("1", "32")
_WAITING = re.compile(r"(epoll_wait|syscall|poll|sched_yield|0x[0-9a-f]+) \(libc")
Stacks = Counter[tuple[str, ...]]


class ThreadCost(NamedTuple):
    """So far, of one thread. `switches`: how often it gave up its core to wait."""

    name: str
    cpu_ns: int
    system_share: float
    switches: int


class Subject(NamedTuple):
    """A process under a load. `requests`: how many take about SAMPLE_S."""

    name: str
    pid: int
    port: int
    cell: Cell
    models: Sequence[BenchModel]
    requests: int
    directory: Path
    others: Sequence[int]

    def ask(self, requests: int) -> None:
        """Send the load."""
        load.run(self.port, self.cell, self.models, requests, self.directory, fleet.pins()[1])


def run(directory: Path, path: Path, models: Sequence[BenchModel]) -> None:
    """Profile at 1 and at 32 requests in flight, print, and write `path`."""
    if shutil.which("py-spy") is None:
        sys.exit(HOW_TO_GET)
    with fleet.running(directory, models, [fleet.OURS]) as running:
        subjects = [s for cell in CELLS if cell.name in PROFILED for s in _subjects(running, models, cell, directory)]
        parts = [_profile(subject) for subject in subjects]
    text = "\n\n".join([_head(), *parts]) + "\n"
    print(text)
    path.write_text(text)


def _subjects(running: fleet.Fleet, models: Sequence[BenchModel], cell: Cell, directory: Path) -> list[Subject]:
    target = running.targets[0]
    rate = Bench(running, models, 1.0, directory).measure(target, cell, 0).load.requests_per_s
    asked = Choice(running, models).models(cell, 0)  # owned by the first scorer
    pids = {"Router": target.pid or 0, "Scorer": running.scorer_pids[0]}
    every = [target.pid or 0, *running.scorer_pids]
    return [
        Subject(name, pid, target.port, cell, asked, int(rate * SAMPLE_S), directory, [p for p in every if p != pid])
        for name, pid in pids.items()
    ]


def _profile(subject: Subject) -> str:
    """The threads from one run, the functions of the main thread from another one with py-spy."""
    _separate(subject)
    before, cpu_s = _threads(subject.pid), process_cpu_s(subject.pid)
    subject.ask(subject.requests)
    after, cost_us = _threads(subject.pid), (process_cpu_s(subject.pid) - cpu_s) / subject.requests * 1e6
    stacks = _main_thread(subject.pid, _sample(subject))
    main_us = (after[subject.pid].cpu_ns - before[subject.pid].cpu_ns) / subject.requests / 1e3
    seen = sum(stacks.values())
    where = f"{subject.name}, {subject.cell.name} in flight"
    return "\n\n".join(
        [
            f"## {where}: {cost_us:.1f} us of CPU a request",
            _thread_table(before, after, subject.requests),
            f"The main thread ({main_us:.1f} us), from {seen} samples in which it didn't wait:",
            _listing("Own time", _by_leaf(stacks), main_us, seen),
            _listing("With all that it calls", _by_function(stacks), main_us, seen),
        ]
    )


def _separate(subject: Subject) -> None:
    """Give the subject a core of its own. On a shared one it would be put aside by whom it sends to, inside of its
    system call, and py-spy would take that for the cost of the call.
    """
    cores = sorted(os.sched_getaffinity(0))
    for pid in (subject.pid, *subject.others):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cores[0] if pid == subject.pid else cores[-1]})


def _threads(pid: int) -> dict[int, ThreadCost]:
    return {int(task.name): _thread(task) for task in Path(f"/proc/{pid}/task").iterdir()}


def _thread(task: Path) -> ThreadCost:
    user, system = map(int, (task / "stat").read_text().rpartition(")")[2].split()[11:13])
    switches = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.MULTILINE)
    cpu_ns = int((task / "schedstat").read_text().split()[0])
    share = system / max(user + system, 1)
    return ThreadCost((task / "comm").read_text().strip(), cpu_ns, share, int(switches[1]) if switches else 0)


def _thread_table(before: dict[int, ThreadCost], after: dict[int, ThreadCost], requests: int) -> str:
    lines = ["| thread | us a request | of it in the kernel | waits a request |", "| --- | ---: | ---: | ---: |"]
    none = ThreadCost("", 0, 0.0, 0)
    for tid, end in sorted(after.items(), key=lambda item: -item[1].cpu_ns + before.get(item[0], none).cpu_ns):
        begin = before.get(tid, none)
        spent_ns = end.cpu_ns - begin.cpu_ns
        in_kernel = (end.system_share * end.cpu_ns - begin.system_share * begin.cpu_ns) / max(spent_ns, 1)
        cost_us, waits = spent_ns / requests / 1e3, (end.switches - begin.switches) / requests
        if cost_us >= 0.05:
            lines.append(f"| `{end.name}` {tid} | {cost_us:.2f} | {in_kernel:.0%} | {waits:.3f} |")
    return "\n".join(lines)


def _sample(subject: Subject) -> Stacks:
    """Stacks, outermost frame first, with the number of samples of each."""
    path = subject.directory / f"{subject.name}-{subject.cell.name}.stacks"
    options = ["--native", "--threads", "-f", "raw", "-d", str(SAMPLE_S), "-r", str(RATE_HZ)]
    argv = ["py-spy", "record", *options, "-o", str(path), "-p", str(subject.pid)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sampler:
        subject.ask(2 * subject.requests)
        output = sampler.communicate(timeout=60)[0]
    if sampler.returncode:
        sys.exit(f"py-spy failed: {output[-500:]}")
    stacks: Stacks = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] += int(count)
    return stacks


def _main_thread(pid: int, stacks: Stacks) -> Stacks:
    prefix = f"thread ({pid})"
    return Counter({s: n for s, n in stacks.items() if s[0].startswith(prefix) and not _WAITING.match(s[-1])})


def _by_leaf(stacks: Counter[tuple[str, ...]]) -> Counter[str]:
    return _count((_short(stack[-1]), count) for stack, count in stacks.items())


def _by_function(stacks: Counter[tuple[str, ...]]) -> Counter[str]:
    """Each function once a stack, however often it is on it."""
    return _count((name, n) for stack, n in stacks.items() for name in {_short(f) for f in stack if ".py" in f})


def _count(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, count in pairs:
        found[name] += count
    return found


def _short(frame: str) -> str:
    """`function (file.py)` without the line; of a native frame the function without its C++ or Rust arguments."""
    name, _, place = re.sub(r":\d+\)$", ")", frame).partition(" (")
    return f"{name[:70]} ({place}" if place else name[:90]


def _listing(title: str, counts: Counter[str], cost_us: float, total: int) -> str:
    lines = [f"| {title} | share | us a request |", "| --- | ---: | ---: |"]
    for name, count in counts.most_common(TOP):
        share = count / total
        lines.append(f"| `{name}` | {share:.1%} | {share * cost_us:.2f} |")
    return "\n".join(lines)


def _head() -> str:
    facts = "; ".join(f"{name} {value}" for name, value in report.machine().items())
    return (
        "# Where the time of a Score request goes\n\n"
        "Made by `python -m bench.data_path --profile`: one model, one row, 1 and 32 requests in flight. The cost of "
        "the threads is the kernel's account; functions are py-spy's samples with native frames, "
        f"{RATE_HZ} a second over {SAMPLE_S} s. Sampling stops the process for a moment each time, so shares are what "
        "counts; the microseconds are the share times the thread's cost in a run without py-spy.\n\n"
        f"Machine: {facts}"
    )
