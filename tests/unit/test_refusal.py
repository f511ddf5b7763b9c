"""A version that must not be loaded isn't, whoever asks for it."""

from __future__ import annotations

import pytest

from registry.errors import QuarantinedError
from registry.model import ModelSchema, ModelVersion, Runtime
from scorer.cache import ModelCache, Resident
from scorer.engine import Rows


class _Model:
    resident_bytes = 10

    def predict(self, _rows: Rows) -> list[object]:
        return []

    def close(self) -> None: ...


async def test_a_refused_version_is_not_loaded_until_it_is_allowed() -> None:
    loaded: list[str] = []
    refused = {"bad"}

    async def load(version: ModelVersion) -> Resident:
        loaded.append(version.package)
        return Resident(_Model(), ModelSchema(("f",), ()), 10, 1, 0, 0)  # type: ignore[arg-type]

    def refusal(version: ModelVersion) -> QuarantinedError | None:
        return QuarantinedError("no") if version.package in refused else None

    cache = ModelCache(1000, load, refusal=refusal)

    async def borrow(package: str) -> None:
        async with cache.borrow(ModelVersion("1", package, "acme", "", "", Runtime.ONNX, 10, 10)):
            pass

    await borrow("good")
    for _ in range(3):
        with pytest.raises(QuarantinedError):
            await borrow("bad")
    assert loaded == ["good"]
    assert not cache.holds("bad")
    refused.clear()
    await borrow("bad")
    assert loaded == ["good", "bad"]
    await cache.aclose()
