"""The local disk tier: files under one directory, bounded by bytes, the least recently used go first.

A file's name is its digest, or a folder and its digest: each tenant has a folder, so that it's known whose a file is
after a restart, too. Blocking file IO: call it from one thread. Contract: a file appears under its final name only when
it's complete (written beside it, then renamed); bytes are checked against their digest by whoever reads them, and a bad
file is thrown away with `discard`. Nothing is synced: after a power cut a file may be short or have foreign bytes, and
the check finds it as it finds any other bad one. A full or failing disk makes the tier forget, never the request fail.

What is there at the start is kept, so that a restart finds its working set; a directory belongs to one process at a
time. What was used last is known by the file `scoremesh-order`, since access times are off or a day late on most
machines (noatime, relatime) and setting them would be a write for each read. It's written now and then, and by `close`:
a process that is killed loses the order of its last `_ORDER_S`, no more. What it doesn't name was written later.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Container, Iterator
from pathlib import Path
from time import monotonic

_log = logging.getLogger(__name__)
_PARTIAL = ".partial"
_ORDER = "scoremesh-order"
_ORDER_S = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DIGEST = re.compile("[0-9a-f]{64}")


class DiskTier:
    """See the module. `capacity_bytes` 0 keeps nothing."""

    def __init__(self, directory: Path, capacity_bytes: int) -> None:
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self.used_bytes = 0
        directory.mkdir(parents=True, exist_ok=True)
        self._adopt()
        self._ordered_at = monotonic()
        self._order_is_old = False

    def _adopt(self) -> None:
        found, places = [], {name: place for place, name in enumerate(self._read_order())}
        for path in (*self._files(), *self._directory.glob(f"{_ORDER}.*{_PARTIAL}")):
            if path.suffix == _PARTIAL:
                self._unlink(path)
            elif _DIGEST.fullmatch(path.name):
                name = str(path.relative_to(self._directory))
                with contextlib.suppress(FileNotFoundError):  # Somebody cleans up.
                    status = path.stat()
                    found.append((places.get(name, len(places)), status.st_mtime, name, status.st_size))
        for _place, _written_at, name, size in sorted(found):
            self._sizes[name] = size
            self.used_bytes += size
        self._delete(self._shrink(self._capacity_bytes))

    def _read_order(self) -> list[str]:
        try:
            return (self._directory / _ORDER).read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _note_order(self, pause_s: float = _ORDER_S) -> None:
        """Write down what was used last, unless that was done less than `pause_s` ago or nothing was used since."""
        if not self._order_is_old or monotonic() - self._ordered_at < pause_s:
            return
        self._order_is_old, self._ordered_at = False, monotonic()
        with self._lock:
            names = list(self._sizes)
        self._put(_ORDER, "".join(f"{name}\n" for name in names).encode())

    def close(self) -> None:
        """Write down what was used last. The tier may be used on."""
        self._note_order(0.0)

    def _files(self) -> Iterator[Path]:
        """What is named as a file of ours; the rest is not ours to count, and never to delete."""
        for path in self._directory.iterdir():
            is_folder = path.is_dir() and os.access(path, os.R_OK | os.X_OK)
            for file in path.iterdir() if is_folder else (path,):
                if _DIGEST.match(file.name) and file.is_file():
                    yield file

    def __contains__(self, name: str) -> bool:
        """Whether there are bytes under a name, right or not. From any thread."""
        return name in self._sizes

    def read(self, name: str) -> bytes | None:
        """The bytes stored under a name, unchecked; None when there are none."""
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        self._order_is_old = True
        self._note_order()
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            _log.warning("can't read %s from the disk tier: %s", name, error)
            self.discard(name)
            return None

    def write(self, name: str, data: bytes) -> None:
        """Keep bytes, evicting others; too large or a failing disk: keep nothing."""
        if len(data) > self._capacity_bytes or name in self._sizes:
            return
        if not self._put(name, data):
            return
        with self._lock:
            self._sizes[name] = len(data)
            self.used_bytes += len(data)
            leaving = self._shrink(self._capacity_bytes)
        self._delete(leaving)
        self._order_is_old = True
        self._note_order()

    def _put(self, name: str, data: bytes) -> bool:
        """Write a file whole or not at all. Where others have filled the disk, what was used least makes room."""
        try:
            return self._write(name, data)
        except OSError as error:
            if error.errno in _FULL and self.used_bytes:
                with self._lock:
                    leaving = self._shrink(self.used_bytes - len(data))
                self._delete(leaving)
                with contextlib.suppress(OSError):
                    return self._write(name, data)
            _log.warning("can't write %s to the disk tier: %s", name, error)
        return False

    def _write(self, name: str, data: bytes) -> bool:
        partial = self._directory / f"{name}.{os.getpid()}{_PARTIAL}"
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.rename(self._directory / name)
        except OSError:
            with contextlib.suppress(OSError):  # It's deleted at the next start.
                partial.unlink()
            raise
        return True

    def discard(self, name: str) -> None:
        """Throw away what is stored under a name."""
        self._forget([name])

    def purge(self, folder: str, digests: Container[str]) -> int:
        """Throw away all of a folder ("" for none), and what has one of these digests; returns how many files."""
        with self._lock:
            split = [(name, *name.rpartition("/")[::2]) for name in self._sizes]
        names = [name for name, inside, digest in split if (folder and inside == folder) or digest in digests]
        self._forget(names)
        self._order_is_old = True
        if (self._directory / _ORDER).exists():
            self._note_order(0.0)  # It names what nothing may name any longer.
        return len(names)

    def _forget(self, names: list[str]) -> None:
        with self._lock:
            for name in names:
                self.used_bytes -= self._sizes.pop(name, 0)
        self._delete(names)

    def _shrink(self, to_bytes: int) -> list[str]:
        """Forget what was used least; returns what is to be deleted."""
        leaving = []
        while self.used_bytes > max(to_bytes, 0):
            name, size = self._sizes.popitem(last=False)
            self.used_bytes -= size
            leaving.append(name)
        return leaving

    def _delete(self, names: list[str]) -> None:
        for name in names:
            self._unlink(self._directory / name)
        for folder in {name.rpartition("/")[0] for name in names} - {""}:
            with contextlib.suppress(OSError):  # It has other files.
                (self._directory / folder).rmdir()

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("can't delete %s: %s", path, error)
