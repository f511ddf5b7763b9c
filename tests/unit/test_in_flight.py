"""What a worker writes is what its supervisor reads, also after the worst end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scorer.crash_cause import cause_of_end
from scorer.in_flight import LOAD, LOOP, NOWHERE, PREDICT, BlackBox, InFlight, open_in_flight

_WORKER = """
import ctypes, sys, threading, os, signal
from scorer.in_flight import *
from scorer.in_flight import open_in_flight
in_flight = open_in_flight(int(sys.argv[1]))
in_flight.beat()
in_flight.enter(LOOP, "looped")
in_flight.enter(LOAD, "loaded")
def crash(): ctypes.string_at(0)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()
elif sys.argv[2] == "main":
    crash()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def box() -> Iterator[BlackBox]:
    box = BlackBox()
    yield box
    box.close()


def test_what_is_written_is_read(box: BlackBox) -> None:
    in_flight = InFlight(box.memory_fd)
    in_flight.enter(LOOP, "a" * 32)
    in_flight.enter(LOAD, "b")
    in_flight.enter(PREDICT, "c" * 128)
    seen = box.read()
    assert seen.packages == ("a" * 32, "b", "c" * 128)
    assert seen.main_thread == threading.main_thread().ident
    assert seen.beat == 0

    in_flight.enter(PREDICT, "d")
    in_flight.leave(LOOP)
    in_flight.beat()
    after = box.read()
    assert after.packages == ("", "b", "d")
    assert after.stamps[LOAD] == seen.stamps[LOAD] != 0
    assert after.stamps[PREDICT] != seen.stamps[PREDICT]
    assert after.beat == 1
    in_flight.leave(LOAD)
    in_flight.leave(PREDICT)
    assert box.read().packages == ("", "", "")


def test_without_a_supervisor_it_is_written_nowhere() -> None:
    assert open_in_flight(-1) is NOWHERE
    NOWHERE.enter(LOOP, "a")
    NOWHERE.leave(LOOP)


@pytest.mark.parametrize(
    ("where", "number", "suspects"),
    [
        ("main", signal.SIGSEGV, {"looped"}),
        ("thread", signal.SIGSEGV, {"loaded"}),
        ("killed", signal.SIGKILL, set()),
    ],
)
def test_a_crash_leaves_its_suspects(box: BlackBox, where: str, number: signal.Signals, suspects: set[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", _WORKER, str(box.memory_fd), where]
    ended = subprocess.run(argv, pass_fds=[box.memory_fd], env=environment, timeout=60, check=False)
    assert ended.returncode == -number
    seen = box.read()
    assert seen.beat == 1
    assert seen.packages[:2] == ("looped", "loaded")
    assert cause_of_end(seen, ended.returncode, box.last_words(), 0).suspects == suspects
    assert ("Segmentation fault" in box.last_words()) == (where != "killed")
