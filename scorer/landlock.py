"""Takes the file system away from a process, by Landlock.

Contract: after `restrict` nothing can be opened, made, renamed or removed but for reading: the files named, and what
lies below the folders named;
files without a path (pipes, memfd) stay usable, also by way of /proc/self/fd. From the kernel's sixth version of the
interface on, no process outside gets a signal either, and from the fourth no TCP port is bound or connected to. It
can't be undone. Reference: Documentation/userspace-api/landlock.rst of Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Callable, Sequence

_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights a version of the interface knows
_LATEST_FILE_RIGHTS = 16
_TCP_RIGHTS, _SCOPES = 0b11, 0b11

Syscall = Callable[..., int]


def restrict(syscall: Syscall, first: int, readable: Sequence[str]) -> None:
    """Restrict this process, which must have "no new privileges" set. `first`: number of landlock_create_ruleset.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    ruleset = syscall(first, *_ruleset(syscall(first, None, 0, _VERSION_FLAG)), 0)
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError):  # so nothing of it can be read
                _allow_reading(syscall, first + 1, ruleset, path)
        syscall(first + 2, ruleset, 0)
    finally:
        os.close(ruleset)


def _ruleset(version: int) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """(struct landlock_ruleset_attr, its size): all that this version of the interface can forbid."""
    rights = (1 << _FILE_RIGHTS.get(version, _LATEST_FILE_RIGHTS)) - 1
    attributes = struct.pack("<QQQ", rights, _TCP_RIGHTS, _SCOPES)
    size = 8 if version < 4 else 16 if version < 6 else 24
    return ctypes.create_string_buffer(attributes[:size], size), size


def _allow_reading(syscall: Syscall, add_rule: int, ruleset: int, path: str) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # The kernel refuses a rule that lets a file be read as a folder.
        folder = stat.S_ISDIR(os.fstat(opened).st_mode)
        rights = _READ_FILE | (_READ_FOLDER if folder else 0)
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, opened), 12)
        syscall(add_rule, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)
