from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer, free_port
from ops.process import ChildProcess
from registry.errors import UnavailableError

WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]

PARENT = """
import pathlib, sys
from ops.process import ChildProcess
child = ChildProcess(["sleep", "1000"], pathlib.Path(sys.argv[1]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


async def test_a_child_dies_with_its_parent(tmp_path: Path, wait_until: WaitUntil) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(  # noqa: ASYNC220 - starting is quick
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    await wait_until(lambda: not is_running(pid))


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, wait_until: WaitUntil) -> None:
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(99)"
    child = ChildProcess([sys.executable, "-c", code], tmp_path / "log")
    await wait_until(lambda: "set" in child.log_tail())
    child.stop(grace_s=0.1)
    assert child.exit_code == -signal.SIGKILL
    assert not is_running(child.pid)


async def test_a_frozen_child_is_stopped_in_order(tmp_path: Path) -> None:
    child = ChildProcess(["sleep", "99"], tmp_path / "log")
    child.send(signal.SIGSTOP)
    child.stop(grace_s=10)
    assert child.exit_code == -signal.SIGTERM
    child.stop()  # twice does no harm


async def test_a_missing_program_is_told_in_the_log(tmp_path: Path, wait_until: WaitUntil) -> None:
    child = ChildProcess(["/nowhere/at-all"], tmp_path / "log")
    await wait_until(lambda: child.exit_code is not None)
    assert "can't run /nowhere/at-all" in child.log_tail()


def test_a_thread_may_not_start_a_child(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def start() -> None:
        try:
            ChildProcess(["true"], tmp_path / "log")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    child = ChildProcess(["env"], tmp_path / "log", env={"ONLY": "this", "PATH": os.environ["PATH"]})
    child._popen.wait(10)
    assert "ONLY=this" in child.log_tail()
    assert "HOME=" not in child.log_tail()


def test_a_taken_port_is_replaced_and_a_given_one_is_not(etcd_binary: Path, tmp_path: Path) -> None:
    first = EtcdServer(tmp_path / "first", binary=etcd_binary)
    second = EtcdServer(tmp_path / "second", binary=etcd_binary)
    given = EtcdServer(tmp_path / "given", binary=etcd_binary, client_port=free_port())
    try:
        first.start()
        second._client_port = given._client_port = first._client_port  # taken between the choice and the start
        second.start()
        assert second.endpoint != first.endpoint
        with pytest.raises(UnavailableError, match="ports taken"):
            given.start()
    finally:
        first.terminate()
        second.terminate()
        given.terminate()


def test_a_node_that_cannot_start_says_why(etcd_binary: Path, tmp_path: Path) -> None:
    server = EtcdServer(tmp_path / "etcd", binary=etcd_binary, extra_args=("--no-such-flag",))
    with pytest.raises(UnavailableError, match="no-such-flag"):
        server.start()
