"""The local disk tier: artifacts by digest in one directory, bounded by bytes, the least recently used go first.

Blocking file IO: call it from a thread. Contract: a file appears under its final name only when it's complete
(written beside it, then renamed); bytes are checked against their digest by whoever reads them, and a bad file is
thrown away with `discard`. A full or failing disk makes the tier forget, never the request fail. What is there at the
start is kept, so that a restart finds its working set; a directory belongs to one process at a time.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import OrderedDict
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
        for path in self._directory.iterdir():
            if not _DIGEST.match(path.name):
                continue  # not ours to count, and never to delete
            if path.suffix == _PARTIAL:
                path.unlink(missing_ok=True)
            elif _DIGEST.fullmatch(path.name):
                status = path.stat()
                found.append((status.st_atime, path.name, status.st_size))
        for _used_at, name, size in sorted(found):
            self._sizes[name] = size
            self.used_bytes += size
        self._delete(self._shrink())

    def __contains__(self, digest: str) -> bool:
        return digest in self._sizes

    def read(self, digest: str) -> bytes | None:
        """The bytes stored under a digest, unchecked; None when there are none."""
        with self._lock:
            if digest not in self._sizes:
                return None
            self._sizes.move_to_end(digest)
        try:
            return (self._directory / digest).read_bytes()
        except OSError as error:
            _log.warning("can't read %s from the disk tier: %s", digest, error)
            self.discard(digest)
            return None

    def write(self, digest: str, data: bytes) -> None:
        """Keep bytes, evicting others; too large or a failing disk: keep nothing."""
        if len(data) > self._capacity_bytes or digest in self._sizes:
            return
        partial = self._directory / f"{digest}.{os.getpid()}{_PARTIAL}"
        try:
            partial.write_bytes(data)
            partial.rename(self._directory / digest)
        except OSError as error:
            _log.warning("can't write %s to the disk tier: %s", digest, error)
            self._unlink(partial)
            return
        with self._lock:
            self._sizes[digest] = len(data)
            self.used_bytes += len(data)
            leaving = self._shrink()
        self._delete(leaving)

    def discard(self, digest: str) -> None:
        """Throw away what is stored under a digest."""
        with self._lock:
            self.used_bytes -= self._sizes.pop(digest, 0)
        self._delete([digest])

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

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("can't delete %s: %s", path, error)
