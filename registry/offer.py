"""A file offered for publishing, read once, and what trying it out shows.

Contract: what is measured is what is stored: the bytes are read once, and the prober gets a private copy of them,
whatever happens to the file meanwhile. Nothing here loads a model in this process.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from registry.errors import ArtifactRejectedError
from registry.lightgbm_text import check_lightgbm_text
from registry.model import Runtime
from registry.probing import Probed, detect_runtime

Prober = Callable[[Path, Runtime], Awaitable[Probed]]
_HEAD_BYTES = 64


class Offer(NamedTuple):
    """The bytes of a model file, their lower-case sha256, and the engine that they are for."""

    data: bytes
    digest: str
    runtime: Runtime


async def read_offer(path: Path, runtime: Runtime | None, limit_bytes: int) -> Offer:
    """Read a file; without `runtime` its first bytes tell the engine.

    Raises:
        ArtifactRejectedError: it can't be read, is larger than `limit_bytes`, or is no model file.
    """
    data = await asyncio.to_thread(_read, path, limit_bytes)
    runtime = runtime or detect_runtime(data[:_HEAD_BYTES])
    digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    return Offer(data, digest, runtime)


async def examine(offer: Offer, prober: Prober) -> Probed:
    """Try a model out where it can do no harm. Raises ArtifactRejectedError when no scorer may load it."""
    if offer.runtime is Runtime.LIGHTGBM:
        await asyncio.to_thread(check_lightgbm_text, offer.data)
    with tempfile.TemporaryDirectory(prefix="scoremesh-publish-") as folder:
        copy = Path(folder) / "model"
        await asyncio.to_thread(copy.write_bytes, offer.data)
        return await prober(copy, offer.runtime)


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise ArtifactRejectedError(f"can't read {path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise ArtifactRejectedError(f"{path} is larger than the limit of {limit_bytes} bytes")
    return data
