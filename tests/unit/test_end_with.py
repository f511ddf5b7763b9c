"""How a process of ours ends: its status and its last words, with native threads still at work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.command import ENVIRONMENT

_PROGRAM = """
import atexit, sys, threading
from registry.process import end_with
atexit.register(lambda: print("the interpreter's own end"))
threading.Thread(target=threading.Event().wait).start()
def main():
    print("output", end="")
    {ending}
end_with(main)
"""


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('error: X: y')", 1, "error: X: y\n"),
    ],
)
def test_the_status_is_the_interpreters_and_no_thread_is_waited_for(ending: str, status: int, error: str) -> None:
    done = _run(ending)
    assert (done.returncode, done.stdout, done.stderr) == (status, "output", error)


def test_an_unforeseen_error_is_shown_whole() -> None:
    done = _run("raise KeyError('k')")
    assert (done.returncode, done.stdout) == (1, "output")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("KeyError: 'k'\n")


def _run(ending: str) -> subprocess.CompletedProcess[str]:
    program = _PROGRAM.format(ending=ending)
    return subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
