"""Shuts this process in before it touches a file that nobody has checked.

Contract: `enter` is for a child that was just forked, has one thread, and will never do anything else. What it needs
must be imported and open before. Afterwards the process

- takes at most so much memory and CPU time, and leaves no core dump;
- has no open file but those named, and nothing to read at its standard input;
- runs as nobody where it was root, and can't gain privileges;
- makes no system call but those of `scorer.seccomp`: no network, no process, no thread, no signal to others;
- opens no file but system libraries and some of its own of /proc, for reading (`scorer.landlock`); a memfd that was
  open before may grow to the size limit, and no other can be made;
- dies with its parent, and is the first that the kernel kills when memory runs out.

Whatever of this the kernel or the container doesn't offer is left out and named; the rest still holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
from collections.abc import Callable, Collection
from typing import NamedTuple

from scorer import landlock
from scorer.seccomp import ARCHITECTURES, Architecture, program

NOBODY = 65534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_FILTER = 2
_OPEN_FILES = 64
# A locale or a codec is loaded when it is first asked for; how much memory is in use, and where the stack lies, stand
# in /proc/self. What else is there, the environment and the mounts and sockets of the machine, is nobody's business.
_READABLE = ("/usr/lib", "/usr/lib64", *(f"/proc/self/{name}" for name in ("statm", "fd", "maps", "status")))


class Limits(NamedTuple):
    """Of one process. `file_bytes`: of any file that it writes, a memfd."""

    address_space_bytes: int = 4 << 30
    cpu_s: int = 20
    file_bytes: int = 1 << 30


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_MACHINE = platform.machine()


def enter(limits: Limits, keep: Collection[int], parent: int) -> list[str]:
    """Shut this process in; see the module. `keep`: the files that stay open, above 2. `parent`: its process id.
    Returns what could not be had, in words; empty where all holds. Ends the process if the parent is gone.
    """
    os.setsid()
    _volunteer()
    _close_files(keep)
    _limit(limits)
    missing: list[str] = []
    for what, step in _STEPS.items():
        try:
            step()
        except OSError as error:
            missing.append(f"{what} ({error.strerror})")
    _die_with(parent)
    try:
        _filter_calls()  # the last step, as it refuses the calls that the others make
    except OSError as error:
        missing.append(f"the filter of system calls ({error.strerror})")
    return missing


def _volunteer() -> None:
    """Be the first that the kernel kills when memory runs out."""
    with contextlib.suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)


def _close_files(keep: Collection[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    start = 3
    for number in [*sorted(keep), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(start, number)
        start = number + 1


def _limit(limits: Limits) -> None:
    for what, soft, hard in (
        (resource.RLIMIT_AS, limits.address_space_bytes, limits.address_space_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),  # the soft one ends it with SIGXCPU, which tells why
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
    ):
        _, most = resource.getrlimit(what)
        most = hard if most == resource.RLIM_INFINITY else most
        resource.setrlimit(what, (min(soft, most), min(hard, most)))


def _become_nobody() -> None:
    """Does nothing for another user than root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _prctl(_PR_SET_DUMPABLE, 1)  # else its own /proc/self/fd, the way to a memfd, stays root's


def _gain_nothing() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _lock_files() -> None:
    landlock.restrict(_syscall, _architecture().landlock, _READABLE)


_STEPS: dict[str, Callable[[], None]] = {
    "another user": _become_nobody,
    "no new privileges": _gain_nothing,
    "the lock on files": _lock_files,
}


def _die_with(parent: int) -> None:
    """After the change of user, which takes the wish back. The kernel minds the thread that forked."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _filter_calls() -> None:
    code = program(_architecture(), os.getpid())
    _prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(_Program(len(code) // 8, code)))


def _architecture() -> Architecture:
    """Raises OSError where its numbers aren't known here."""
    found = ARCHITECTURES.get(_MACHINE)
    if found is None:
        raise OSError(0, f"unknown machine {_MACHINE}")
    return found


def _prctl(*arguments: object) -> None:
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in (*arguments, 0, 0, 0, 0)[:5]]
    if _LIBC.prctl(*wide):
        raise _failure()


def _syscall(*arguments: object) -> int:
    answer = int(_LIBC.syscall(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)))
    if answer < 0:
        raise _failure()
    return answer


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
