"""Many publishers and alias changes on one model, in orders that chance gives, against a real etcd and file store."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.etcd_server import EtcdServer
from registry.alias_moves import AliasMoves
from registry.errors import ModelNotFoundError
from registry.etcd import Etcd
from registry.keys import Keys
from registry.ledger import Ledger
from registry.library import Library
from registry.model import ModelRef
from registry.publish import Publisher
from registry.store_urls import open_store
from tests.integration.publishing import check_synced, constant_admit, model_file, open_ledger

REF = ModelRef("acme", "fraud")
ALIASES = st.sampled_from(["live", "candidate"])
# Each actor begins after so many turns of the event loop: publish to these aliases, or move an alias to a version.
PUBLISH = st.tuples(st.just("publish"), st.integers(0, 40), st.lists(ALIASES, max_size=2, unique=True))
MOVE = st.tuples(st.just("move"), st.integers(0, 40), st.tuples(ALIASES, st.integers(1, 6).map(str)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data")
    server.start()
    yield server
    server.terminate()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(actors=st.lists(st.one_of(PUBLISH, MOVE), min_size=2, max_size=10))
def test_all_publishers_end_in_one_history(server: EtcdServer, actors: list[tuple[str, int, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(server.endpoint, Path(folder), actors))


async def _play(endpoint: str, folder: Path, actors: list[tuple[str, int, object]]) -> None:
    etcd, keys, url = Etcd([endpoint]), Keys(f"test-{uuid.uuid4().hex}"), f"file://{folder}/store"
    acting = [_act(open_ledger(open_store(url), etcd, keys), folder, i, a) for i, a in enumerate(actors)]
    outcomes = await asyncio.gather(*acting)
    published = [outcome for outcome in outcomes if outcome is not None]
    store = open_store(url)
    versions = await Library(store).list_versions(REF)
    assert sorted(published) == sorted(versions)
    assert len(set(published)) == len(published)
    revisions = await store.list_names("tenants/acme/models/fraud/aliases")
    assert revisions == [f"{number:020d}.json" for number in range(1, len(revisions) + 1)]
    assert len(revisions) >= len(published)
    if revisions:
        assert (await check_synced(store, etcd, keys, REF)).revision == len(revisions)
    await etcd.aclose()


async def _act(ledger: Ledger, folder: Path, number: int, actor: tuple[str, int, object]) -> str | None:
    """One actor's act; returns the version that it published."""
    what, turns, arguments = actor
    moves = AliasMoves(ledger)
    for _ in range(turns):
        await asyncio.sleep(0)
    if what == "publish":
        assert isinstance(arguments, list)
        publisher = Publisher(ledger, moves, constant_admit)
        return (await publisher.publish(model_file(folder, str(number)), REF, aliases=arguments)).version
    assert isinstance(arguments, tuple)
    with contextlib.suppress(ModelNotFoundError):  # that version isn't there yet
        await moves.point(REF, *arguments)
    return None
