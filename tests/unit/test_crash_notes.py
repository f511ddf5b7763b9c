"""Notes of crashes survive whatever happens to their file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scorer.crash_notes import CrashNote, CrashNotes


def _note(number: int) -> CrashNote:
    return CrashNote(f"crash{number}", f"package{number}", "crashed with SIGSEGV", "2026-01-01T00:00:00Z")


def test_notes_are_kept_until_they_are_removed(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path / "worker-0")
    assert notes.read() == []
    notes.add(_note(1), _note(2))
    notes.add(_note(3))
    assert CrashNotes(tmp_path / "worker-0").read() == [_note(1), _note(2), _note(3)]
    notes.remove({"crash1", "crash3"})
    assert notes.read() == [_note(2)]
    notes.remove({"crash2"})
    assert notes.read() == []


def test_the_newest_hundred_are_kept(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    for number in range(105):
        notes.add(_note(number))
    assert notes.read() == [_note(number) for number in range(5, 105)]


def test_a_damaged_line_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = CrashNotes(tmp_path)
    notes.add(_note(1), _note(2))
    path = tmp_path / "crashes.jsonl"
    path.write_bytes(b'{"crash": 1}\n\xff\xfe\n' + path.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert notes.read() == [_note(1)]
    assert caplog.text.count("can't be read") == 3
    notes.add(_note(3))
    assert notes.read() == [_note(1), _note(3)]


def test_a_disk_that_fails_is_no_failure_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "crashes.jsonl").mkdir()
    notes = CrashNotes(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert notes.read() == []
        notes.add(_note(1))
    assert "can't write" in caplog.text
