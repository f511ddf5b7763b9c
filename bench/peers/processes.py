"""The processes of a server: a root with all that it started. They are counted and ended together, by their ids."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from bench.measure import process_cpu_s
from ops.process import ChildProcess


def tree(roots: Iterable[int]) -> dict[int, psutil.Process]:
    """All processes under these, themselves included, as far as they still run."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            one = psutil.Process(root)
            found |= {each.pid: each for each in (one, *one.children(recursive=True))}
    return found


def cpu_s(roots: Sequence[int]) -> dict[int, float]:
    """CPU time of each process under these roots."""
    seen = {}
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            seen[pid] = process_cpu_s(pid)
    return seen


def cpu_between_s(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU time between two looks; of a process that has come since, all."""
    return sum(now - before.get(pid, 0.0) for pid, now in after.items())


def rss_mib(roots: Sequence[int]) -> float:
    """Memory of all processes under these roots; what they share counts once for each of them that has it mapped."""
    total = 0
    for process in tree(roots).values():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


def is_running(pid: int) -> bool:
    """Whether a process is there and hasn't ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def confine(roots: Iterable[int], core: int) -> None:
    """Give all threads of the processes under these one core, and so those that they start later."""
    for pid in tree(roots):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), {core})


def stop_tree(child: ChildProcess, grace_s: float = 15.0) -> None:
    """End a child as it wishes to be ended, then whatever it left behind."""
    every = tree([child.pid])
    child.stop(grace_s)
    for pid, process in every.items():
        if pid != child.pid:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil makes sure that the id still is that process's.
