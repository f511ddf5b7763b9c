"""Each test forks a child that enters the sandbox and tries what it must not be able to do."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scorer import sandbox
from scorer.sandbox import NOBODY, Limits, enter
from scorer.seccomp import ARCHITECTURES, program

ROOT = os.geteuid() == 0
Attempt = Callable[[], Any]


DEFAULTS = Limits()


def inside(
    attempt: Attempt, limits: Limits = DEFAULTS, before: Attempt = lambda: None, keep: Sequence[int] = ()
) -> tuple[str, int]:
    """(what a child reports, its exit code). The report is `repr` of what `attempt` gave or raised."""
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            before()
            missing = enter(limits, [writing, *keep], parent)
            os.write(writing, report(attempt, missing).encode())
        finally:
            os._exit(0)
    os.close(writing)
    told = os.read(reading, 1 << 16).decode()
    os.close(reading)
    return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def report(attempt: Attempt, missing: list[str]) -> str:
    try:
        return f"{missing} {attempt()!r}"
    except BaseException as error:
        return f"{missing} {error!r}"


def become_another_user() -> None:
    if ROOT:
        os.setgroups([])
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)


def connect() -> None:
    socket.socket(socket.AF_INET).connect(("127.0.0.1", 9))


def trace_parent() -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


ATTEMPTS: dict[str, Attempt] = {
    "connect": connect,
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "socket pair": socket.socketpair,
    "start a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
    "fork": os.fork,
    "thread": lambda: threading.Thread(target=int).start(),
    "kill the parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill all": lambda: os.kill(-1, signal.SIGKILL),
    "trace the parent": trace_parent,
    "read a secret": Path("/etc/shadow").read_text,
    "read a file that all may read": Path("/etc/passwd").read_text,
    "write a file": lambda: Path("/tmp/scoremesh-sandbox-test").write_text("x"),
    "write a file here": lambda: Path("scoremesh-sandbox-test").write_text("x"),
    "make a folder": lambda: Path("/tmp/scoremesh-sandbox-test").mkdir(),
    "a file in memory": lambda: os.memfd_create("x"),
    "read the environment": Path("/proc/self/environ").read_bytes,
    "read its memory as a file": Path("/proc/self/mem").open,
    "read the mounts": Path("/proc/self/mountinfo").read_text,
    "read the sockets of the machine": Path("/proc/self/net/tcp").read_text,
    "list its own folder of /proc": lambda: list(Path("/proc/self").iterdir()),
    "list the root": lambda: list(Path("/").iterdir()),
    "change the root": lambda: os.chroot("/"),
    "become root again": lambda: os.setuid(0),
    "a higher limit": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("before", [lambda: None, become_another_user], ids=["as root", "as another user"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_is_forbidden_fails(attempt: str, before: Attempt) -> None:
    told, code = inside(ATTEMPTS[attempt], before=before)
    assert told.startswith("[] ")
    assert "PermissionError" in told or "can't start new thread" in told
    assert code == 0


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_root_becomes_nobody() -> None:
    told, _ = inside(lambda: (os.getuid(), os.geteuid(), os.getgid(), os.getegid()))
    assert told == f"[] ({NOBODY}, {NOBODY}, {NOBODY}, {NOBODY})"


def test_what_is_open_outside_is_closed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    with secret.open() as file:
        number = file.fileno()
        told, _ = inside(lambda: os.read(number, 1))
        assert "Bad file descriptor" in told
    assert inside(lambda: os.read(0, 1))[0] == "[] b''"


def test_memory_is_limited() -> None:
    told, _ = inside(lambda: mmap.mmap(-1, 8 << 30), Limits(address_space_bytes=4 << 30))
    assert "Cannot allocate memory" in told


def test_processor_time_is_limited() -> None:
    def spin() -> None:
        while True:
            pass

    assert inside(spin, Limits(cpu_s=1)) == ("", -signal.SIGXCPU)


def test_what_an_engine_reads_about_its_own_process_can_be_read() -> None:
    def read() -> list[bool]:
        files = [bool(Path(f"/proc/self/{name}").read_text()) for name in ("statm", "maps", "status")]
        return [*files, bool(os.listdir("/proc/self/fd"))]  # noqa: PTH208

    assert inside(read)[0] == "[] [True, True, True, True]"


def test_a_file_in_memory_from_outside_may_grow_to_the_limit() -> None:
    number = os.memfd_create("x")

    def write(size: int) -> int:
        with open(f"/proc/self/fd/{number}", "wb") as file:  # noqa: PTH123 - as a C++ library does
            file.write(b"x" * size)
        return os.fstat(number).st_size

    limits = Limits(file_bytes=1 << 20)
    signal_before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    assert inside(lambda: write(1000), limits, keep=[number])[0] == "[] 1000"
    assert "File too large" in inside(lambda: write(2 << 20), limits, keep=[number])[0]
    signal.signal(signal.SIGXFSZ, signal_before)
    os.close(number)


def test_a_process_may_end_itself_by_a_signal() -> None:
    assert inside(os.abort) == ("", -signal.SIGABRT)


def test_it_dies_with_its_parent() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        own = os.getpid()
        if not os.fork():
            enter(Limits(), [writing], own)
            os.write(writing, b"x")
            time.sleep(1000)
        signal.pause()
        os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reading, 1) == b""  # the grandchild held the other end
    os.close(reading)


def test_what_the_system_does_not_offer_is_named_and_the_rest_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(sandbox, "_filter_calls", refuse)
    monkeypatch.setitem(sandbox._STEPS, "the lock on files", refuse)
    told, _ = inside(os.fork)
    lacking = ["the lock on files (Function not implemented)", "the filter of system calls (Function not implemented)"]
    assert told.startswith(repr(lacking))
    assert "BlockingIOError" in told  # the limit of processes
    if ROOT:
        assert "PermissionError" in inside(Path("/etc/shadow").read_text)[0]


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_is_a_program_whose_jumps_stay_inside(machine: str) -> None:
    code = program(ARCHITECTURES[machine], 7)
    steps = [code[start : start + 8] for start in range(0, len(code), 8)]
    assert len(code) % 8 == 0
    assert len(steps) < 4096
    for place, step in enumerate(steps):
        if step[0] == 0x15:
            assert place + 1 + max(step[2], step[3]) < len(steps)
    assert steps[-1][0] == 0x06
