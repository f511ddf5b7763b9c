"""Long lists of models: what a page reads of the store, and what it shows while models come and go."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from registry.artifacts import ArtifactStore
from registry.library import Library
from registry.service.listing import ModelNames
from registry.store_urls import open_store


class Counting(Library):
    """Counts the listings of tenants."""

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__(store)
        self.listed: list[str] = []

    async def list_models(self, tenant: str) -> list[str]:
        self.listed.append(tenant)
        return await super().list_models(tenant)


def make_models(folder: Path, counts: dict[str, int]) -> None:
    for tenant, count in counts.items():
        for number in range(count):
            path = folder / f"store/tenants/{tenant}/models/m{number:05}/aliases"
            path.mkdir(parents=True)


@pytest.fixture
def library(tmp_path: Path) -> Counting:
    make_models(tmp_path, {"a": 3, "b": 1500, "c": 1, **{f"d{number:02}": 2 for number in range(40)}, "e": 1200})
    return Counting(open_store(f"file://{tmp_path}/store"))


async def all_pages(names: ModelNames, tenant: str | None, size: int) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = await names.page(tenant, size, token)
        assert len(page.refs) == size or not page.next_token
        found += [str(ref) for ref in page.refs]
        token = page.next_token
        if not token:
            return found


@pytest.mark.parametrize("size", [7, 100, 1000])
async def test_pages_over_all_tenants_are_the_list(library: Counting, size: int) -> None:
    expected = [f"{t}/{m}" for t in await library.list_tenants() for m in await library.list_models(t)]
    assert len(expected) == 3 + 1500 + 1 + 80 + 1200
    library.listed.clear()
    assert await all_pages(ModelNames(library), None, size) == expected
    assert library.listed.count("b") == 1
    assert library.listed.count("e") == 1


async def test_a_long_list_is_read_once_for_all_its_pages_and_anew_for_the_next_list(
    library: Counting, tmp_path: Path
) -> None:
    names = ModelNames(library)
    assert len(await all_pages(names, "b", 100)) == 1500
    assert library.listed == ["b"]
    await asyncio.to_thread(shutil.rmtree, tmp_path / "store/tenants/b/models/m00000")
    assert (await all_pages(names, "b", 100))[0] == "b/m00001"
    assert library.listed == ["b", "b"]


async def test_a_first_page_reads_no_further_than_it_must(library: Counting) -> None:
    names = ModelNames(library)
    page = await names.page(None, 3, "")
    assert [str(ref) for ref in page.refs] == ["a/m00000", "a/m00001", "a/m00002"]
    page = await names.page("b", 100, "")
    library.listed.clear()
    await names.page("b", 100, page.next_token)
    assert library.listed == []


async def test_a_short_list_is_read_for_each_page(library: Counting, tmp_path: Path) -> None:
    names = ModelNames(library)
    page = await names.page("d00", 1, "")
    await asyncio.to_thread((tmp_path / "store/tenants/d00/models/m9").mkdir)
    assert [ref.model for ref in (await names.page("d00", 5, page.next_token)).refs] == ["m00001", "m9"]
