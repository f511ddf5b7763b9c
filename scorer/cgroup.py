"""How much memory the container allows this process, as the kernel tells it.

Contract: `memory_limit_bytes` is the smallest limit that holds here: of the process's own control group, of those above
it, and what the machine has. Control groups of version 2 (`memory.max`), and of version 1 where the machine still has
them (`memory.limit_in_bytes`). Reference: the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_V1 = "memory"


def memory_limit_bytes(proc: Path = Path("/proc"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """See the module. `proc`, `mounted`: where the two file systems are."""
    limits = (_number(path) for path in _limit_files(proc / "self" / "cgroup", mounted))
    return min([_machine_bytes(proc), *(limit for limit in limits if limit is not None)])


def _limit_files(groups: Path, mounted: Path) -> Iterator[Path]:
    """The files that may hold a limit: of the process's group and of each one above it."""
    for line in _text(groups).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            root, file = mounted, "memory.max"
        elif _V1 in controllers.split(","):
            root, file = mounted / _V1, "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(name.lstrip("/"))
        for each in (group, *group.parents):
            yield root / each / file


def _number(path: Path) -> int | None:
    """A limit, None where there is none ("max"), or no such file: a container doesn't see the groups above its own."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _machine_bytes(proc: Path) -> int:
    found = [line.split() for line in _text(proc / "meminfo").splitlines() if line.startswith("MemTotal:")]
    return int(found[0][1]) * 1024


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
