"""Catalogues of many real models, made once and kept in a cache directory: store, etcd's data, and a list of models.

    python -m bench.scale.catalogues 1000 10000 100000 300000

Contract: `ensure` makes what is missing by `scoremesh catalogue make`, which goes on where it was stopped; a catalogue
that is complete is only opened. The first models of every catalogue are the same ones, to the last byte, whatever its
size: so what a working set costs can be compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ops.etcd_server import EtcdServer

_COMPLETE, _MODELS = "complete.txt", "models.jsonl"
_ARGUMENTS = ("--sample", "100")


class CatalogueFiles(NamedTuple):
    """One of so many models."""

    models: int
    directory: Path

    @property
    def store(self) -> str:
        """URL of the object store."""
        return f"file://{self.directory / 'store'}"

    @property
    def listed(self) -> Path:
        """What `scoremesh load --models` reads."""
        return self.directory / _MODELS

    @property
    def made_s(self) -> float:
        """How long it took to make, when it was made."""
        return float((self.directory / _COMPLETE).read_text())

    def etcd(self) -> EtcdServer:
        """Its etcd, not started yet."""
        return EtcdServer(self.directory / "etcd")

    def first(self, count: int, path: Path) -> Path:
        """Write the list of the first so many models."""
        with self.listed.open() as lines:
            path.write_text("".join(islice(lines, count)))
        return path


def cache_dir() -> Path:
    """Where they are."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "scoremesh" / "catalogues"


def ensure(models: int, say: Callable[[str], None]) -> CatalogueFiles:
    """Make one of so many models, where it isn't there.

    Raises:
        RuntimeError: it can't be made.
    """
    files = CatalogueFiles(models, cache_dir() / str(models))
    if (files.directory / _COMPLETE).is_file():
        return files
    say(f"making {models:,} models")
    files.directory.mkdir(parents=True, exist_ok=True)
    server, began = files.etcd(), time.monotonic()
    server.start()
    try:
        places = ["--store", files.store, "--etcd", server.endpoint, "--models-file", str(files.listed)]
        argv = [sys.executable, "-m", "ops", "catalogue", "make", str(models), *places, *_ARGUMENTS]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    finally:
        server.terminate()
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    say(done.stdout.strip())
    (files.directory / _COMPLETE).write_text(f"{time.monotonic() - began:.1f}")
    return files


def main() -> None:
    """Make those that are asked for."""
    for size in sys.argv[1:]:
        ensure(int(size), lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
