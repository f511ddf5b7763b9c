"""How long a supervisor waits before it starts a worker again, and which workers can't be blamed for standing still.
What it does with processes is in tests/chaos.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from registry.supervision import pause_s
from scorer.supervisor import _may_run


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer() -> None:
    assert [pause_s(ends) for ends in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


@given(st.integers(0, 10**6))
def test_pauses_never_shrink_and_are_bounded(ends: int) -> None:
    assert 0.0 <= pause_s(ends) <= pause_s(ends + 1) <= 30.0


def test_a_stopped_process_is_not_to_blame() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        _wait_for(child.pid, may_run=True)
        child.send_signal(signal.SIGSTOP)
        _wait_for(child.pid, may_run=False)
        child.send_signal(signal.SIGCONT)
        _wait_for(child.pid, may_run=True)
        child.kill()
        _wait_for(child.pid, may_run=False)
    finally:
        child.kill()
        child.communicate()
    assert not _may_run(child.pid)


def _wait_for(pid: int, *, may_run: bool) -> None:
    until = time.monotonic() + 30
    while _may_run(pid) != may_run:
        assert time.monotonic() < until
        time.sleep(0.001)
