"""The local disk tier: files under one directory, bounded by bytes, the least recently used go first.

A file's name is its digest, or a folder and its digest: each tenant has a folder, so that it's known whose a file is
after a restart, too. Blocking file IO: call it from one thread. Contract: a file appears under its final name only when
it's complete (written beside it, then renamed); bytes are checked against their digest by whoever reads them, and a bad
file is thrown away with `discard`. A full or failing disk makes the tier forget, never the request fail. What is there
at the start is kept, so that a restart finds its working set; a directory belongs to one process at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Container, Iterator
from pathlib import Path

_log = logging.getLogger(__name__)
_PARTIAL = ".partial"
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

    def _adopt(self) -> None:
        found = []
        for path in self._files():
            if path.suffix == _PARTIAL:
                path.unlink(missing_ok=True)
            elif _DIGEST.fullmatch(path.name):
                status = path.stat()
                found.append((status.st_atime, str(path.relative_to(self._directory)), status.st_size))
        for _used_at, name, size in sorted(found):
            self._sizes[name] = size
            self.used_bytes += size
        self._delete(self._shrink())

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
        partial = self._directory / f"{name}.{os.getpid()}{_PARTIAL}"
        try:
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(data)
            partial.rename(self._directory / name)
        except OSError as error:
            _log.warning("can't write %s to the disk tier: %s", name, error)
            self._unlink(partial)
            return
        with self._lock:
            self._sizes[name] = len(data)
            self.used_bytes += len(data)
            leaving = self._shrink()
        self._delete(leaving)

    def discard(self, name: str) -> None:
        """Throw away what is stored under a name."""
        self._forget([name])

    def purge(self, folder: str, digests: Container[str]) -> int:
        """Throw away all of a folder ("" for none), and what has one of these digests; returns how many files."""
        with self._lock:
            split = [(name, *name.rpartition("/")[::2]) for name in self._sizes]
        names = [name for name, inside, digest in split if (folder and inside == folder) or digest in digests]
        self._forget(names)
        return len(names)

    def _forget(self, names: list[str]) -> None:
        with self._lock:
            for name in names:
                self.used_bytes -= self._sizes.pop(name, 0)
        self._delete(names)

    def _shrink(self) -> list[str]:
        leaving = []
        while self.used_bytes > self._capacity_bytes:
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
