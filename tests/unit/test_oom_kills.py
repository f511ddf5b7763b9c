"""How often the kernel killed for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorer.oom_kills import oom_kills


@pytest.mark.parametrize(
    ("groups", "events", "count"),
    [
        ("0::/\n", "low 0\nhigh 7\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n", 2),
        ("1:cpu:/x\n0::/\n", "oom_kill 0\n", 0),
        ("1:memory:/x\n", "oom_kill 4\n", 0),
        ("0::/\n", "what is this\n", 0),
        ("0::/gone\n", "oom_kill 4\n", 0),
    ],
)
def test_the_count_of_the_group(tmp_path: Path, groups: str, events: str, count: int) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(groups)
    (tmp_path / "memory.events").write_text(events)
    assert oom_kills(tmp_path, tmp_path) == count


def test_here_it_tells_something() -> None:
    assert oom_kills() >= 0
