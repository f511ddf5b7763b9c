"""The local disk tier, on a real directory; a full disk is a limit of the kernel's, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from hashlib import sha256
from pathlib import Path

import pytest

from scorer.disk import DiskTier


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _put(tier: DiskTier, data: bytes) -> str:
    tier.write(_digest(data), data)
    return _digest(data)


def _on_disk(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "new" / "folder", 100)
    digest = _put(tier, b"model")
    assert tier.read(digest) == b"model"
    assert tier.used_bytes == 5
    assert tier.read(_digest(b"other")) is None
    _put(tier, b"model")
    assert tier.used_bytes == 5


def test_it_is_bounded_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 100)
    a, b = _put(tier, b"a" * 40), _put(tier, b"b" * 40)
    tier.read(a)
    c = _put(tier, b"c" * 40)
    assert (tier.read(a), tier.read(b), tier.read(c)) == (b"a" * 40, None, b"c" * 40)
    assert _on_disk(tmp_path) == {a, c}
    assert tier.used_bytes == 80


def test_what_is_too_large_or_has_no_room_is_not_kept(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 100)
    kept = _put(tier, b"a")
    assert tier.read(_put(tier, b"b" * 101)) is None
    assert tier.read(kept) == b"a"
    none = DiskTier(tmp_path / "none", 0)
    assert none.read(_put(none, b"x")) is None


def test_a_restart_finds_its_working_set_in_order(tmp_path: Path) -> None:
    before = DiskTier(tmp_path, 100)
    digests = [_put(before, bytes([number]) * 30) for number in range(3)]
    for age, digest in zip((300, 100, 200), digests, strict=True):
        os.utime(tmp_path / digest, (1_700_000_000 - age, 1_700_000_000))
    after = DiskTier(tmp_path, 100)
    assert after.used_bytes == 90
    assert after.read(digests[1]) == bytes([1]) * 30
    smaller = DiskTier(tmp_path, 70)
    assert [smaller.read(digest) is not None for digest in digests] == [False, True, True]
    assert _on_disk(tmp_path) == {digests[1], digests[2]}


def test_a_crash_in_the_middle_of_a_write_leaves_nothing(tmp_path: Path) -> None:
    """A process is killed while its file is half written."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from scorer.disk import DiskTier
        Path.rename = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
        DiskTier(Path(sys.argv[1]), 1000).write("a" * 64, b"x" * 100)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), tmp_path], check=False)
    assert done.returncode == -9
    assert any(name.endswith(".partial") for name in _on_disk(tmp_path))
    tier = DiskTier(tmp_path, 1000)
    assert _on_disk(tmp_path) == set()
    assert (tier.read("a" * 64), tier.used_bytes) == (None, 0)


def test_a_full_disk_forgets_and_fails_nothing(tmp_path: Path) -> None:
    program = """
        import resource, signal, sys
        from pathlib import Path
        from scorer.disk import DiskTier
        tier = DiskTier(Path(sys.argv[1]), 10**9)
        tier.write("a" * 64, b"small")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        tier.write("b" * 64, b"x" * 5000)
        assert tier.read("b" * 64) is None
        assert tier.read("a" * 64) == b"small"
        assert tier.used_bytes == 5
        tier.write("c" * 64, b"y" * 900)
        assert tier.read("c" * 64) == b"y" * 900
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "can't write" in done.stderr
    assert _on_disk(tmp_path) == {"a" * 64, "c" * 64}


def test_a_file_that_somebody_deleted_is_forgotten(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 100)
    digest = _put(tier, b"model")
    (tmp_path / digest).unlink()
    assert tier.read(digest) is None
    assert tier.used_bytes == 0
    tier.write(digest, b"model")
    assert tier.read(digest) == b"model"


def test_a_bad_file_can_be_thrown_away(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 100)
    digest = _put(tier, b"model")
    tier.discard(digest)
    tier.discard(digest)
    assert (tier.read(digest), tier.used_bytes, _on_disk(tmp_path)) == (None, 0, set())


def test_files_of_others_are_neither_counted_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_bytes(b"x" * 500)
    (tmp_path / f"{'a' * 64}.bak").write_bytes(b"z" * 200)
    (tmp_path / "worker-0").mkdir()
    (tmp_path / "draft.partial").write_bytes(b"y")
    tier = DiskTier(tmp_path, 100)
    assert tier.used_bytes == 0
    _put(tier, b"a" * 60)
    _put(tier, b"b" * 60)
    assert {"thesis.txt", "worker-0", "draft.partial", f"{'a' * 64}.bak"} <= _on_disk(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        DiskTier(tmp_path / "file" / "cache", 100)


def test_a_folder_is_purged_and_what_has_a_digest_in_any(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 1000)
    data, other = b"model", b"other"
    for name in (f"acme/{_digest(data)}", f"acme/{_digest(other)}", f"umbrella/{_digest(data)}", _digest(other)):
        tier.write(name, data)
    assert tier.purge("acme", ()) == 2
    assert _on_disk(tmp_path) == {"umbrella", _digest(other)}
    assert tier.purge("", ()) == 0
    assert tier.purge("nobody", {_digest(data)}) == 1
    assert _on_disk(tmp_path) == {_digest(other)}
    assert tier.used_bytes == len(data)


def test_files_in_folders_are_found_after_a_restart(tmp_path: Path) -> None:
    before = DiskTier(tmp_path, 100)
    before.write(f"acme/{_digest(b'a')}", b"a" * 60)
    (tmp_path / "acme" / "foreign").write_bytes(b"not ours")
    after = DiskTier(tmp_path, 100)
    assert after.read(f"acme/{_digest(b'a')}") == b"a" * 60
    after.write(f"umbrella/{_digest(b'b')}", b"b" * 60)
    assert after.read(f"acme/{_digest(b'a')}") is None
    assert _on_disk(tmp_path) == {"acme", "umbrella"}
    (tmp_path / "acme" / "foreign").unlink()
    assert after.purge("umbrella", ()) == 1
    assert _on_disk(tmp_path) == {"acme"}
