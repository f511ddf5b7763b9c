"""The system calls that a throw-away process may still make, as a seccomp filter.

Contract: `program` is a classic BPF program that lets through what computing, memory, and reading and writing open
files take, and answers EPERM to every other call, also to those that a later kernel brings: no socket, no new process
or thread, no program started, nobody traced or signalled but the process itself, no file in memory, which would be
memory beyond the limit of the address space. A call by another architecture's
numbers ends the process. Which files may be opened is not decided here, as a filter can't read paths: see
`scorer.sandbox`.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64) of Linux. The form of
the program: Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import NamedTuple

_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # the second: with errno 1, EPERM
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_F_SETFL, _F_DUPFD_CLOEXEC = 4, 1030


class Architecture(NamedTuple):
    """`audit`: AUDIT_ARCH_* of linux/audit.h. The calls: those that are let through, and those that depend on one of
    their arguments. `landlock`: number of landlock_create_ruleset; the other two follow it.
    """

    audit: int
    free: dict[str, int]
    kill: int
    tgkill: int
    fcntl: int
    prlimit64: int
    landlock: int = 444


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, number in (entry.split() for entry in table.split(","))}


_X86_64 = Architecture(
    audit=0xC000003E,
    free=_numbers(
        """
        read 0, write 1, close 3, fstat 5, poll 7, lseek 8, mmap 9, mprotect 10, munmap 11, brk 12, rt_sigaction 13,
        rt_sigprocmask 14, rt_sigreturn 15, pread64 17, pwrite64 18, readv 19, writev 20, access 21, sched_yield 24,
        mremap 25, madvise 28, dup 32, nanosleep 35, getpid 39, exit 60, uname 63, ftruncate 77, getcwd 79,
        readlink 89, gettimeofday 96, getrusage 98, sysinfo 99, times 100, getuid 102, getgid 104, geteuid 107,
        getegid 108, getppid 110, sigaltstack 131, gettid 186, time 201, futex 202, sched_getaffinity 204,
        getdents64 217, restart_syscall 219, clock_gettime 228, clock_getres 229, clock_nanosleep 230,
        exit_group 231, openat 257, newfstatat 262, readlinkat 267, ppoll 271, set_robust_list 273, getcpu 309,
        getrandom 318, membarrier 324, statx 332, rseq 334
        """
    ),
    kill=62,
    tgkill=234,
    fcntl=72,
    prlimit64=302,
)

_AARCH64 = Architecture(
    audit=0xC00000B7,
    free=_numbers(
        """
        getcwd 17, dup 23, ftruncate 46, faccessat 48, openat 56, close 57, getdents64 61, lseek 62, read 63,
        write 64, readv 65, writev 66, pread64 67, pwrite64 68, ppoll 73, readlinkat 78, newfstatat 79, fstat 80,
        exit 93, exit_group 94, futex 98, set_robust_list 99, nanosleep 101, clock_gettime 113, clock_getres 114,
        clock_nanosleep 115, sched_getaffinity 123, sched_yield 124, restart_syscall 128, sigaltstack 132,
        rt_sigaction 134, rt_sigprocmask 135, rt_sigreturn 139, times 153, uname 160, getrusage 165, getcpu 168,
        gettimeofday 169, getpid 172, getppid 173, getuid 174, geteuid 175, getgid 176, getegid 177, gettid 178,
        sysinfo 179, brk 214, munmap 215, mremap 216, mmap 222, mprotect 226, madvise 233, getrandom 278,
        membarrier 283, statx 291, rseq 293
        """
    ),
    kill=129,
    tgkill=131,
    fcntl=25,
    prlimit64=261,
)

ARCHITECTURES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def program(architecture: Architecture, pid: int) -> bytes:
    """The filter for the process `pid`, as an array of `struct sock_filter`."""
    return b"".join(
        [
            _beginning(architecture.audit, tuple(sorted(architecture.free.values()))),
            # abort() signals its own thread; that is how an assertion of an engine ends the process.
            *_only_with(architecture.kill, argument=0, allowed=[pid]),
            *_only_with(architecture.tgkill, argument=0, allowed=[pid]),
            # Further commands of fcntl would have the kernel send signals to others (F_SETOWN and F_SETSIG).
            *_only_with(architecture.fcntl, argument=1, allowed=[*range(_F_SETFL + 1), _F_DUPFD_CLOEXEC]),
            *_only_with(architecture.prlimit64, argument=0, allowed=[0]),
            _instruction(_RETURN, _REFUSE),
        ]
    )


@cache
def _beginning(audit: int, free: tuple[int, ...]) -> bytes:
    """End the process on another architecture's call; let the free ones through; the call's number stays loaded."""
    is_ours = [_load(_ARCHITECTURE_AT), _instruction(_JUMP_IF_EQUAL, audit, true=1), _instruction(_RETURN, _KILL)]
    return b"".join([*is_ours, _load(_NUMBER_AT), *map(_allow_if, free)])


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    """`true`, `false`: how many instructions a jump skips."""
    return struct.pack("<HBBI", code, true, false, value)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD_WORD, offset)


def _allow_if(value: int) -> bytes:
    """Let the call through if the loaded word is `value`."""
    return _instruction(_JUMP_IF_EQUAL, value, false=1) + _instruction(_RETURN, _ALLOW)


def _only_with(number: int, argument: int, allowed: list[int]) -> list[bytes]:
    """Decide on call `number`: let it through if the low half of an argument is one of `allowed`, else refuse it. All
    these arguments are of C type int, so that the kernel too looks at the low half alone.
    """
    choices = [_load(_ARGUMENTS_AT + 8 * argument), *map(_allow_if, allowed), _instruction(_RETURN, _REFUSE)]
    length = sum(map(len, choices)) // 8
    return [_instruction(_JUMP_IF_EQUAL, number, false=length), *choices]
