"""The race between what is read of an application and what etcd's watch tells. The store is a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from registry.etcd import Etcd
from registry.keys import Keys
from registry.library import Library
from registry.model import ApplicationRecord, ModelRef
from registry.shared_models import SharedModels
from registry.store_urls import open_store

SHARED = ModelRef("vendor", "lead-v7")


class _Interrupted(Library):
    """Between its first answer and who waits for it, etcd's first listing is folded."""

    models: SharedModels | None = None

    async def newest_application(self, application: str) -> ApplicationRecord | None:
        record = await super().newest_application(application)
        if self.models is not None:
            asyncio.get_running_loop().call_soon(self.models._applications.replace, [])
            self.models = None
        return record


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_a_listing_made_forget_is_read_again(tmp_path: Path, is_there: bool) -> None:
    library = _Interrupted(open_store(f"file://{tmp_path}/store"))
    if is_there:
        await library.create_application(ApplicationRecord(application="lead", revision=1, shared=SHARED))
    etcd = Etcd(["127.0.0.1:1"])
    library.models = models = SharedModels(etcd, Keys("c"), library)
    assert await models.resolve("lead") == (SHARED if is_there else None)
    assert library.models is None
    await models.aclose()
    await etcd.aclose()
