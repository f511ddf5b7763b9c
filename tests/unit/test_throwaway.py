"""Each test forks a child, gives it something, and hears what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from registry.probe_wire import BY_ITSELF, OUT_OF_TIME, TOO_TALKATIVE
from scorer.throwaway import Throwaway, mapping, skip

Work = Callable[[int, int], None]


@contextmanager
def running(work: Work, timeout_s: float = 20.0) -> Iterator[Throwaway]:
    one = Throwaway(work, time.monotonic() + timeout_s)
    try:
        yield one
    finally:
        one.end()


@pytest.fixture
def source() -> Iterator[tuple[int, int]]:
    """(end to read from, end to write to)."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def heard(work: Work, source: int, size: int = 1 << 20, timeout_s: float = 20.0) -> tuple[int, bytes]:
    with running(work, timeout_s) as one, mapping(size) as answer:
        ending, length = one.hear(answer, source)
        return ending, bytes(answer[:length])


def echo(size: int) -> Work:
    def work(taking: int, telling: int) -> None:
        with open(taking, "rb") as given, open(telling, "wb") as answer:
            answer.write(given.read(size))

    return work


def feed(target: int, data: bytes) -> threading.Thread:
    def write() -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(target, rest) :]

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 3_000_000])
def test_what_is_given_arrives_and_the_rest_stays(source: tuple[int, int], size: int) -> None:
    data = os.urandom(size)
    with running(echo(size)) as one, mapping(size + 1) as answer:
        feeding = feed(source[1], data + b"next")
        assert one.give(source[0], size) == 0
        feeding.join()
        assert os.read(source[0], 100) == b"next"
        assert one.hear(answer, source[0]) == (BY_ITSELF, size)
        assert bytes(answer[:size]) == data


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_what_a_child_that_ended_did_not_take_can_be_skipped(source: tuple[int, int], size: int) -> None:
    """The next request is found where this one ends."""

    def work(taking: int, telling: int) -> None:
        os.write(telling, b"here")
        os.read(taking, 3)
        os.kill(os.getpid(), signal.SIGKILL)

    one = Throwaway(work, time.monotonic() + 20)
    assert one.first_words() == b"here"
    feeding = feed(source[1], bytes(size) + b"next")
    skip(source[0], one.give(source[0], size))
    feeding.join()
    assert os.read(source[0], 100) == b"next"
    assert one.end() == -signal.SIGKILL


def test_one_that_takes_nothing_runs_out_of_time(source: tuple[int, int]) -> None:
    def work(taking: int, telling: int) -> None:
        time.sleep(1000)

    with running(work, timeout_s=0.2) as one:
        assert one.first_words() == b""
        feeding = feed(source[1], bytes(1 << 20))
        left = one.give(source[0], 1 << 20)
        assert left > 0
        skip(source[0], left)
        feeding.join()


@pytest.mark.parametrize("do", [lambda one, number: one.give(number, 1), lambda _, number: skip(number, 1)])
def test_the_end_of_the_source_ends_the_program(do: Callable[[Throwaway, int], None]) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with running(echo(1)) as one, pytest.raises(SystemExit):
        do(one, reading)
    with running(echo(1)) as one, mapping(1) as answer, pytest.raises(SystemExit):
        one.hear(answer, reading)
    os.close(reading)


def test_how_it_ends_is_told(source: tuple[int, int]) -> None:
    def endless(piece: bytes) -> Work:
        def work(taking: int, telling: int) -> None:
            while True:
                os.write(telling, piece)

        return work

    assert heard(lambda _, telling: os.close(telling), source[0]) == (BY_ITSELF, b"")
    assert heard(lambda _, telling: time.sleep(1000), source[0], timeout_s=0.1) == (OUT_OF_TIME, b"")
    assert heard(endless(bytes(1000)), source[0]) == (TOO_TALKATIVE, b"")
    assert heard(endless(b"x"), source[0], 1 << 30, timeout_s=0.1)[0] == OUT_OF_TIME


def test_end_tells_the_exit_code_and_leaves_no_file_open() -> None:
    def crash(taking: int, telling: int) -> None:
        raise ValueError

    def kill(taking: int, telling: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    open_before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for work, code in ((echo(0), 0), (crash, 1), (lambda *_: os._exit(7), 7), (kill, -signal.SIGKILL)):
        one = Throwaway(work, time.monotonic() + 20)
        os.waitid(os.P_PID, one._pid, os.WEXITED | os.WNOWAIT)
        assert one.end() == code
    assert os.listdir("/proc/self/fd") == open_before  # noqa: PTH208


_RESIDUE = """
import ctypes, os, re, time
from scorer.throwaway import Throwaway, mapping, skip

def pass_on(work, size):
    one = Throwaway(work, time.monotonic() + 60)
    with mapping(4_000_000) as answer:
        skip(0, one.give(0, size))
        ending, length = one.hear(answer, quiet)
        os.write(1, answer[:length])
    one.end()

def echo(taking, telling):
    with open(taking, "rb") as given, open(telling, "wb") as answer:
        answer.write(given.read(SIZE))

def leave(taking, telling):
    pass

def look(taking, telling):
    mark, found = re.compile(b"MARK[-]OF[-]A"), 0  # doesn't find itself
    for line in open("/proc/self/maps", "rb").read().split(b"\\n"):
        fields = line.split()
        if len(fields) > 1 and fields[1].startswith(b"rw"):
            start, end = (int(part, 16) for part in fields[0].split(b"-"))
            found += len(mark.findall(ctypes.string_at(start, end - start)))
    os.write(telling, b"found %d" % found)

SIZE = 1_800_000
quiet, _ = os.pipe()
for work, size in ((echo, SIZE), (leave, SIZE), (look, 0)):
    pass_on(work, size)
"""


def test_nothing_of_it_is_left_for_the_next() -> None:
    secret = b"MARK-OF-A" * 200_000
    ran = subprocess.run([sys.executable, "-c", _RESIDUE], input=2 * secret, stdout=subprocess.PIPE, check=True)
    assert ran.stdout[: len(secret)] == secret
    assert ran.stdout[len(secret) :] == b"found 0"
