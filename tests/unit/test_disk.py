"""The local disk tier, on a real directory; a full disk is a limit of the kernel's, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from scorer import disk
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


def _names(tier: DiskTier) -> list[str]:
    """What is in it, used least first."""
    return list(tier._sizes)


def test_a_restart_finds_its_working_set_in_order(tmp_path: Path) -> None:
    before = DiskTier(tmp_path, 100)
    a, b, c = (_put(before, bytes([number]) * 30) for number in range(3))
    before.read(a)
    before.close()
    for digest in (a, b, c):
        os.utime(tmp_path / digest, (1_700_000_000, 1_700_000_000))  # as on a disk without access times
    after = DiskTier(tmp_path, 100)
    assert (_names(after), after.used_bytes) == ([b, c, a], 90)
    assert after.read(b) == bytes([1]) * 30
    after.close()
    smaller = DiskTier(tmp_path, 70)
    assert _names(smaller) == [a, b]
    assert _on_disk(tmp_path) == {a, b, "scoremesh-order"}


def test_what_was_written_after_the_order_counts_as_newer(tmp_path: Path) -> None:
    before = DiskTier(tmp_path, 100)
    a, b = _put(before, b"a"), _put(before, b"b")
    before.close()
    c, d = _put(before, b"c"), _put(before, b"d")
    for age, digest in enumerate((a, b, d, c)):
        os.utime(tmp_path / digest, (0, 1_700_000_000 + age))
    assert _names(DiskTier(tmp_path, 100)) == [a, b, d, c]  # as after a kill: nothing was closed


def test_the_order_is_written_now_and_then_and_not_for_each_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(disk, "monotonic", lambda: now)
    tier = DiskTier(tmp_path, 100)
    a, b = _put(tier, b"a"), _put(tier, b"b")
    tier.read(a)
    assert not (tmp_path / "scoremesh-order").exists()
    now += 61
    tier.read(a)
    written = (tmp_path / "scoremesh-order").read_text()
    assert written.split() == [b, a]
    for _ in range(100):
        tier.read(b)
    assert (tmp_path / "scoremesh-order").read_text() == written
    now += 61
    tier.read(b)
    assert (tmp_path / "scoremesh-order").read_text().split() == [a, b]


def test_a_damaged_order_costs_the_order_only(tmp_path: Path) -> None:
    before = DiskTier(tmp_path, 100)
    digests = {_put(before, b"a"), _put(before, b"b")}
    (tmp_path / "scoremesh-order").write_bytes(bytes(range(256)) + b"\n../../etc/passwd\n" + b"0" * 64)
    (tmp_path / "scoremesh-order.77.partial").write_bytes(b"half")
    assert set(_names(DiskTier(tmp_path, 100))) == digests
    assert not (tmp_path / "scoremesh-order.77.partial").exists()
    (tmp_path / "scoremesh-order").unlink()
    (tmp_path / "scoremesh-order").mkdir()
    after = DiskTier(tmp_path, 100)
    assert set(_names(after)) == digests
    after.read(_names(after)[0])
    after.close()


_WRITER = """
    import random, sys
    from hashlib import sha256
    from pathlib import Path
    from scorer.disk import DiskTier
    tier = DiskTier(Path(sys.argv[1]), 40_000_000)
    print("go", flush=True)
    while True:
        data = random.randbytes(random.randrange(1_000_000, 8_000_000))
        tier.write(f"t{random.randrange(3)}/{sha256(data).hexdigest()}", data)
        tier.close()
"""


@pytest.mark.parametrize("killed_at_bytes", [1, 9_000_000, 35_000_000])
def test_a_process_that_is_killed_leaves_only_whole_files(tmp_path: Path, killed_at_bytes: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while sum(_size(path) for path in tmp_path.rglob("*")) < killed_at_bytes:
            assert writer.poll() is None
        writer.kill()
    tier = DiskTier(tmp_path, 40_000_000)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "scoremesh-order"]
    assert all(_digest(path.read_bytes()) == path.name for path in files)
    assert tier.used_bytes == sum(path.stat().st_size for path in files) <= 40_000_000


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


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


@contextmanager
def _mounted(directory: Path, *options: str) -> Iterator[None]:
    """A file system of its own in a directory; skips where that's not allowed."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, directory], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def test_on_a_full_disk_what_was_used_least_makes_room(tmp_path: Path) -> None:
    with _mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        tier = DiskTier(tmp_path / "small", 100 << 20)
        digests = [_put(tier, bytes([number]) * 300_000) for number in range(8)]
        assert [tier.read(digest) is not None for digest in digests] == [False] * 5 + [True] * 3
        (tmp_path / "small" / "of-somebody-else").write_bytes(bytes(100_000))
        last = _put(tier, b"x" * 400_000)
        assert tier.read(last) == b"x" * 400_000
        assert tier.read(_put(tier, b"y" * 5_000_000)) is None
        tier.write("a" * 64, b"fits again")
        assert tier.read("a" * 64) == b"fits again"
        assert not [name for name in _on_disk(tmp_path / "small") if name.endswith(".partial")]
        tier.close()
        assert DiskTier(tmp_path / "small", 100 << 20).used_bytes == tier.used_bytes


def test_a_read_only_directory_is_read_and_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    kept = _put(DiskTier(folder, 1000), b"kept")
    (folder / f"{'b' * 64}.1.partial").write_bytes(b"half")
    with _mounted(folder, "-o", "bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        tier = DiskTier(folder, 1000)
        assert tier.read(kept) == b"kept"
        assert tier.read(_put(tier, b"new")) is None
        tier.discard(kept)
        assert tier.read(kept) is None
        tier.close()
        assert "can't write" in caplog.text
        subprocess.run(["mount", "-o", "remount,bind,rw", folder], check=True)
        assert DiskTier(folder, 1000).read(kept) == b"kept"


def test_a_directory_that_somebody_deleted_is_made_anew(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "cache", 1000)
    digest = _put(tier, b"model")
    shutil.rmtree(tmp_path / "cache")
    assert tier.read(digest) is None
    assert tier.read(_put(tier, b"model")) == b"model"
    tier.close()
    assert DiskTier(tmp_path / "cache", 1000).read(digest) == b"model"


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


def test_what_was_purged_is_named_nowhere(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 1000)
    tier.write(f"acme/{_digest(b'a')}", b"a")
    tier.write(f"umbrella/{_digest(b'b')}", b"b")
    tier.close()
    tier.purge("acme", ())
    assert (tmp_path / "scoremesh-order").read_text() == f"umbrella/{_digest(b'b')}\n"
