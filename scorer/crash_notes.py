"""Crashes that are still to be reported, on disk: a worker that crashed can't, and etcd may be dead.

Contract: a note that was added is there after any end of any process, until it's removed; damaged lines (a full disk, a
cut file) are skipped. The file has one writer at a time: the supervisor as long as the worker is dead, the worker as
long as it lives. At most the last 100 notes are kept. Notes are a help and no duty: a disk that fails loses them, with
a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Container
from pathlib import Path

import msgspec

_MOST = 100
_log = logging.getLogger(__name__)


class CrashNote(msgspec.Struct, frozen=True):
    """One suspect of one crash. `crash`: id of the crash. `cause`: as in "worker `cause`". `at`: RFC 3339, UTC."""

    crash: str
    package: str
    cause: str
    at: str


class CrashNotes:
    """Those of one worker. `directory`: its own, made when there is something to note."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "crashes.jsonl"

    def read(self) -> list[CrashNote]:
        """All of them, oldest first. What `add` appended to a cut line is lost with it; no more than that."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning("can't read %s: %s", self._path, error)
            return []
        return [note for line in lines[-_MOST:] if (note := _decoded(line)) is not None]

    def add(self, *notes: CrashNote) -> None:
        """Add them, on disk when this returns."""
        self._write([*self.read(), *notes])

    def remove(self, crashes: Container[str]) -> None:
        """Forget the notes of these crashes."""
        self._write([note for note in self.read() if note.crash not in crashes])

    def _write(self, notes: list[CrashNote]) -> None:
        """Written beside and renamed, so that the file is always a whole one."""
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(msgspec.json.encode(note) + b"\n" for note in notes[-_MOST:])
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            _sync(self._path.parent)
        except OSError as error:
            _log.warning("can't write %s: %s", self._path, error)


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _decoded(line: bytes) -> CrashNote | None:
    try:
        return msgspec.json.decode(line, type=CrashNote)
    except msgspec.DecodeError:
        _log.warning("a note of a crash can't be read: %r", line[:200])
        return None
