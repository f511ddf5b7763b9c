"""Fetches the bytes of models: from the disk tier, else from object storage.

Contract: what comes out has the digest that was asked for, whichever tier it comes from: a bad copy on disk is thrown
away and fetched anew, bad bytes in object storage are DigestMismatchError. Files and hashes are read on one thread.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import NamedTuple, Protocol, TypeVar

from registry.artifacts import ArtifactStore
from registry.errors import DigestMismatchError, ModelUnusableError, ObjectMissingError
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_COLD, RESIDENCY_DISK
from scorer.disk import DiskTier

_FETCHES = 8
T = TypeVar("T")


class Fetched(NamedTuple):
    """`residency`: where the bytes came from, a value of scoremesh.scoring.v1.Residency. `fetch_us`, `verify_us`: what
    reading and hashing took.
    """

    data: bytes
    residency: int
    fetch_us: int
    verify_us: int


class Run(Protocol):
    """Does blocking work on a thread."""

    def __call__(self, work: Callable[[], T]) -> Awaitable[T]: ...


class Fetch:
    """See the module. `run`: the thread for files and hashes."""

    def __init__(self, store: ArtifactStore, disk: DiskTier, run: Run) -> None:
        self._store = store
        self._disk = disk
        self._run = run
        self._gate = asyncio.Semaphore(_FETCHES)

    async def get(self, path: str, tenant: str, digest: str, size_bytes: int = 0) -> Fetched:
        """The bytes under a path of the store, whose lower-case sha256 is `digest`. `size_bytes`: how many, where
        that's known.

        Raises:
            ModelUnusableError: they are missing from the store.
            DigestMismatchError: the store has others.
            StoreUnavailableError: it doesn't answer.
        """
        name = f"{tenant}/{digest}"
        if name in self._disk:
            found = await self._run(lambda: self.from_disk(tenant, digest))
            if found is not None:
                return found
        began = perf_counter_ns()
        async with self._gate:
            try:
                data = await self._store.get(path, size_bytes)
            except ObjectMissingError as error:
                raise ModelUnusableError(f"{path} is missing from the store") from error
        fetch_us = (perf_counter_ns() - began) // 1000
        verify_us = await self._run(lambda: self._verify_and_keep(path, name, digest, data))
        return Fetched(data, RESIDENCY_COLD, fetch_us, verify_us)

    def from_disk(self, tenant: str, digest: str) -> Fetched | None:
        """The bytes, where the disk has them; on the thread for files."""
        name = f"{tenant}/{digest}"
        began = perf_counter_ns()
        data = self._disk.read(name)
        if data is None:
            return None
        read = perf_counter_ns()
        if hashlib.sha256(data).hexdigest() != digest:
            self._disk.discard(name)
            return None
        return Fetched(data, RESIDENCY_DISK, (read - began) // 1000, (perf_counter_ns() - read) // 1000)

    def _verify_and_keep(self, path: str, name: str, digest: str, data: bytes) -> int:
        """Microseconds of the check."""
        began = perf_counter_ns()
        if hashlib.sha256(data).hexdigest() != digest:
            raise DigestMismatchError(f"{path} in the store is not what was published (sha256 differs)")
        verify_us = (perf_counter_ns() - began) // 1000
        self._disk.write(name, data)
        return verify_us
