"""Child processes that never outlive us.

Contract: a child is killed by the kernel when the thread that started it ends (Linux, PR_SET_PDEATHSIG), whatever the
cause; it writes to a log file; it is stopped by its own process id, SIGTERM first and SIGKILL after a grace. It runs in
a session of its own, so that Ctrl-C in a terminal reaches us alone and we stop the children in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# Runs in the child before the program, in an interpreter of its own: Python code between fork and exec (preexec_fn)
# can hang in a process that has threads, and gRPC has some. After prctl it looks whether the parent is gone already.
_GUARD = """
import ctypes, os, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) != 0: sys.exit("prctl failed")
if os.getppid() != parent: sys.exit("the parent is gone")
try: os.execvp(argv[0], argv)
except OSError as error: sys.exit(f"can't run {argv[0]}: {error.strerror}")
"""


class ChildProcess:
    """A running child. Start it in the main thread: the kernel takes the end of the starting thread for ours."""

    def __init__(self, argv: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        """Start `argv` with stdout and stderr appended to `log_path`. `env`: the whole environment; None: ours."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a child process must be started in the main thread, or it dies with the thread")
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                guarded(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N after signal N."""
        return self._popen.poll()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self._popen.send_signal(signal_number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, wait up to `grace_s`, SIGKILL. A child that is stopped by SIGSTOP is woken for it."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)
        try:
            self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self, length_bytes: int = 2000) -> str:
        """The end of the log, for an error message."""
        return self.log_path.read_bytes()[-length_bytes:].decode(errors="replace")


def guarded(argv: Sequence[str]) -> list[str]:
    """`argv` behind a guard that makes the kernel kill it when this process ends. The process id stays the same."""
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *argv]
