from __future__ import annotations

from pathlib import Path

import pytest

from scorer.cgroup import memory_limit_bytes

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree:        1 kB\n")
    return proc


def _limit(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_where_nothing_limits(proc: Path, tmp_path: Path) -> None:
    assert memory_limit_bytes(proc, tmp_path / "none") == 16 * GIB
    (proc / "self" / "cgroup").write_text("0::/\n")
    _limit(tmp_path / "cg" / "memory.max", "max\n")
    assert memory_limit_bytes(proc, tmp_path / "cg") == 16 * GIB


def test_the_smallest_of_the_group_and_those_above_it(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/pods/one/scorer\n")
    _limit(tmp_path / "pods" / "one" / "scorer" / "memory.max", "max\n")
    _limit(tmp_path / "pods" / "one" / "memory.max", str(2 * GIB))
    _limit(tmp_path / "pods" / "memory.max", str(8 * GIB))
    assert memory_limit_bytes(proc, tmp_path) == 2 * GIB


def test_a_container_that_sees_its_own_group_as_the_root(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("0::/\n")
    _limit(tmp_path / "memory.max", f"{GIB}\n")
    assert memory_limit_bytes(proc, tmp_path) == GIB


def test_groups_of_version_1(proc: Path, tmp_path: Path) -> None:
    (proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n")
    _limit(tmp_path / "memory" / "a" / "memory.limit_in_bytes", str(3 * GIB))
    _limit(tmp_path / "memory" / "memory.limit_in_bytes", "9223372036854771712")
    assert memory_limit_bytes(proc, tmp_path) == 3 * GIB


def test_this_process() -> None:
    assert 2**26 < memory_limit_bytes() < 2**50
