"""Publishers, moves and deletions that meet at a chosen moment, and requests that come again or under a used id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest

from registry.alias_moves import AliasMoves
from registry.artifacts import ArtifactStore
from registry.bulk_publish import Item, publish_item, publish_many
from registry.change import delete_version, retire
from registry.deletion import delete_model, delete_tenant
from registry.errors import (
    ArtifactRejectedError,
    ConflictError,
    ContractBrokenError,
    InvalidRequestError,
    ModelInUseError,
    ModelNotFoundError,
    NotFoundError,
    StoreUnavailableError,
    VersionExistsError,
)
from registry.etcd import Etcd, Swap
from registry.keys import Keys
from registry.ledger import Ledger
from registry.manifest import AliasRecord, RolloutSpec
from registry.model import ModelRef, ModelVersion
from registry.next_record import MOST_ALIASES, Condition
from registry.offer import Admit, Admitted, Facts, Offer
from registry.publish import Publisher
from registry.settings import delete_application, set_application
from registry.store_urls import open_store
from tests.integration import publishing
from tests.integration.publishing import SCHEMA, check_synced, constant_admit, index_entry, model_file, open_ledger

REF = ModelRef("acme", "churn")
BREAKING = Facts(allow_breaking=True)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def publisher(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Publisher:
    return publishing.publisher(store, etcd, keys)


@pytest.fixture
def ledger(store: ArtifactStore, etcd: Etcd, keys: Keys) -> Ledger:
    return open_ledger(store, etcd, keys)


@pytest.fixture
def moves(ledger: Ledger) -> AliasMoves:
    return AliasMoves(ledger)


def admit_with(*features: str) -> Admit:
    """Says that the model has these features."""

    async def admit(offer: Offer) -> Admitted:
        schema = msgspec.structs.replace(SCHEMA, features=features)
        return (await constant_admit(offer))._replace(schema=schema)

    return admit


class PausingStore(ArtifactStore):
    """Runs `meanwhile` once, before it creates the first object under a folder of this name."""

    def __init__(self, store: ArtifactStore, folder: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store._store, store.url)
        self._folder, self._meanwhile = folder, [meanwhile]

    async def create(self, path: str, data: bytes) -> bool:
        if f"/{self._folder}/" in path and self._meanwhile:
            await self._meanwhile.pop()()
        return await super().create(path, data)


class LostStore(ArtifactStore):
    """Is gone for who would create an object under a folder of this name."""

    def __init__(self, store: ArtifactStore, folder: str) -> None:
        super().__init__(store._store, store.url)
        self._folder = folder

    async def create(self, path: str, data: bytes) -> bool:
        if f"/{self._folder}/" in path:
            raise StoreUnavailableError("object storage is gone")
        return await super().create(path, data)


class SlowEtcd(Etcd):
    """Runs `meanwhile` once, before its first compare-and-swap."""

    meanwhile: Sequence[Callable[[], Awaitable[object]]] = ()

    async def compare_and_swap(self, key: bytes, value: bytes, expected_mod_revision: int, lease_id: int = 0) -> Swap:
        meanwhile, self.meanwhile = self.meanwhile, ()
        for each in meanwhile:
            await each()
        return await super().compare_and_swap(key, value, expected_mod_revision, lease_id)


async def record_of(ledger: Ledger) -> AliasRecord:
    record = await ledger.library.newest_aliases(REF)
    assert record is not None
    return record


async def test_of_two_first_versions_one_is_the_contract_of_the_other(
    store: ArtifactStore, etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path
) -> None:
    """Both were checked when there was no contract yet."""
    both = asyncio.Barrier(2)
    publishing_both = [
        publishing.publisher(PausingStore(store, "aliases", both.wait), etcd, keys, admit_with(*features)).publish(
            model_file(tmp_path, features), REF
        )
        for features in ("ab", "xyz")
    ]
    outcomes = await asyncio.gather(*publishing_both, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(ContractBrokenError) == 1
    record = await record_of(ledger)
    manifest = await ledger.library.read_manifest(REF, record.aliases["live"])
    assert (record.revision, record.contract) == (1, manifest.schema)
    assert await ledger.library.list_versions(REF) == ["1", "2"], "the other one can still be looked at"


async def test_what_kept_to_a_contract_that_was_broken_meanwhile_does_not_go_live(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "old"), REF)
    breaking = publishing.publisher(store, etcd, keys, admit_with("q"))
    meanwhile = partial(breaking.publish, model_file(tmp_path, "breaking"), REF, facts=BREAKING)
    slow = publishing.publisher(PausingStore(store, "aliases", meanwhile), etcd, keys)
    with pytest.raises(ContractBrokenError, match="breaks the contract of model acme/churn"):
        await slow.publish(model_file(tmp_path, "slow"), REF, request_id="r")
    record = await record_of(ledger)
    manifest = await ledger.library.read_manifest(REF, record.aliases["live"])
    assert (record.revision, record.contract) == (2, manifest.schema)
    with pytest.raises(ContractBrokenError):
        await publisher.publish(model_file(tmp_path, "slow"), REF, request_id="r")
    finished = await publisher.publish(model_file(tmp_path, "slow"), REF, request_id="r", facts=BREAKING)
    assert (await record_of(ledger)).contract == finished.schema


async def test_a_version_is_checked_against_the_application_that_the_model_was_given_meanwhile(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path
) -> None:
    await publisher.publish(model_file(tmp_path, "old"), REF)
    await _set_application(ledger)
    meanwhile = partial(publisher.publish, model_file(tmp_path, "a"), REF, facts=Facts(application="lead"))
    slow = publishing.publisher(PausingStore(store, "aliases", meanwhile), etcd, keys)
    await slow.publish(model_file(tmp_path, "slow"), REF)
    record = await record_of(ledger)
    assert (record.revision, record.application, record.aliases) == (3, "lead", {"live": "2"})


async def _set_application(ledger: Ledger) -> None:
    await ledger.change_application(
        "lead", lambda record: set_application(msgspec.structs.replace(record, contract=SCHEMA))(record)
    )


async def test_a_model_whose_application_was_deleted_goes_on_without_one(
    publisher: Publisher, ledger: Ledger, tmp_path: Path
) -> None:
    await _set_application(ledger)
    named = Facts(application="lead")
    await publisher.publish(model_file(tmp_path, "a"), REF, facts=named, request_id="r")
    await ledger.change_application("lead", delete_application())
    with pytest.raises(NotFoundError, match="no application 'lead'"):
        await publisher.publish(model_file(tmp_path, "b"), REF, facts=named)
    again = await publisher.publish(model_file(tmp_path, "a"), REF, facts=named, request_id="r")
    assert again.version == "1", "it was done while there was one"
    assert (await publisher.publish(model_file(tmp_path, "c"), REF)).application == ""
    assert (await record_of(ledger)).application == ""


async def test_an_unknown_application_leaves_no_trace(publisher: Publisher, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no application 'nobody'"):
        await publisher.publish(model_file(tmp_path, "a"), REF, facts=Facts(application="nobody"))
    assert await ledger.library.list_tenants() == []


async def test_a_number_that_was_taken_is_no_name_for_other_content(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    """Its publisher died before there was a manifest."""
    dying = publishing.publisher(LostStore(store, "artifacts"), etcd, keys)
    mine, other = model_file(tmp_path, "mine"), model_file(tmp_path, "other")
    with pytest.raises(StoreUnavailableError):
        await dying.publish(mine, REF, request_id="r")
    with pytest.raises(VersionExistsError, match="version 1 of model acme/churn is taken already by other content"):
        await publisher.publish(other, REF, version="1")
    assert (await publish_many(partial(publish_item, publisher), [Item(mine, REF)])).published == 1
    assert (await publisher.publish(mine, REF, request_id="r")).version == "1"
    assert (await publisher.publish(mine, REF, version="1")).version == "1"
    assert await publisher.library.list_registered(REF) == ["1"]


async def test_who_takes_a_number_first_has_it(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    """The automatic one comes between another's look and registration."""
    meanwhile = partial(publisher.publish, model_file(tmp_path, "mine"), REF)
    slow = publishing.publisher(PausingStore(store, "registered", meanwhile), etcd, keys)
    with pytest.raises(VersionExistsError, match="version 1 of model acme/churn is taken already"):
        await slow.publish(model_file(tmp_path, "other"), REF, version="1")
    assert await publisher.library.list_versions(REF) == ["1"]


async def test_a_refused_file_does_not_use_up_its_name(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, tmp_path: Path
) -> None:
    async def refuse(_offer: Offer) -> Admitted:
        raise ArtifactRejectedError("no model")

    with pytest.raises(ArtifactRejectedError):
        await publishing.publisher(store, etcd, keys, refuse).publish(model_file(tmp_path, "bad"), REF, version="v1")
    assert (await publisher.publish(model_file(tmp_path, "good"), REF, version="v1")).version == "v1"


async def test_a_request_is_known_after_many_other_versions(
    publisher: Publisher, ledger: Ledger, tmp_path: Path
) -> None:
    path = model_file(tmp_path, "first")
    first = await publisher.publish(path, REF, request_id="r")
    for number in range(9):
        await publisher.publish(model_file(tmp_path, f"{number}"), REF)
    assert await publisher.publish(path, REF, request_id="r") == first
    assert (await record_of(ledger)).aliases == {"live": "10"}
    assert len(await publisher.library.list_versions(REF)) == 10
    with pytest.raises(VersionExistsError, match=r"request r published version 1 .* with other content"):
        await publisher.publish(model_file(tmp_path, "other"), REF, request_id="r")


@pytest.mark.parametrize("whole", [True, False], ids=["model", "version"])
async def test_a_request_whose_version_was_deleted_publishes_anew(
    publisher: Publisher, store: ArtifactStore, etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path, whole: bool
) -> None:
    path = model_file(tmp_path, "a")
    await publisher.publish(path, REF, request_id="r")
    if whole:
        await delete_model(ledger, REF, force=True)
    else:
        await publisher.publish(model_file(tmp_path, "b"), REF)
        await ledger.change(REF, delete_version(REF, "1"))
    again = await publisher.publish(path, REF, request_id="r")
    assert again.version == ("2" if whole else "3")
    assert (await check_synced(store, etcd, keys, REF)).aliases["live"].version == again.version


async def test_a_request_id_is_for_one_thing(
    publisher: Publisher, moves: AliasMoves, ledger: Ledger, tmp_path: Path
) -> None:
    used = "request id {} was used already: "
    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF, request_id=name)
    moved = await moves.point(REF, "live", "1", Condition("p"))
    assert await moves.point(REF, "live", "1", Condition("p")) == moved
    with pytest.raises(ConflictError, match=used.format("p") + "alias live to version 1"):
        await moves.point(REF, "live", "2", Condition("p"))
    for act in (moves.roll_back, moves.remove):
        with pytest.raises(ConflictError, match=used.format("p")):
            await act(REF, "live", Condition("p"))
    for promote in (True, False):
        with pytest.raises(ConflictError, match=used.format("p")):
            await moves.end(REF, "live", Condition("p"), promote=promote)
    for condition in (Condition("p"), Condition("a")):
        with pytest.raises(ConflictError, match=used.format(condition.request_id)):
            await moves.begin(REF, "live", RolloutSpec(id="r", shadow="2"), condition)
    with pytest.raises(ConflictError, match=used.format("p") + "alias live to version 1"):
        await publisher.publish(model_file(tmp_path, "d"), REF, request_id="p")
    with pytest.raises(ConflictError, match=used.format("a") + "version 1"):
        await publisher.publish(model_file(tmp_path, "d"), REF, version="9", request_id="a")
    with pytest.raises(ConflictError, match=used.format("c") + "version 3 as live"):
        await publisher.publish(model_file(tmp_path, "c"), REF, aliases=["old"], request_id="c")
    assert await record_of(ledger) == moved
    assert await publisher.library.list_registered(REF) == ["1", "2", "3"]


async def test_what_an_operator_pointed_at_first_still_becomes_the_contract(
    store: ArtifactStore,
    publisher: Publisher,
    moves: AliasMoves,
    etcd: Etcd,
    keys: Keys,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    """The publisher died after the manifest."""
    path = model_file(tmp_path, "a")
    with pytest.raises(StoreUnavailableError):
        await publishing.publisher(LostStore(store, "aliases"), etcd, keys).publish(path, REF, version="1")
    await moves.point(REF, "live", "1")
    manifest = await publisher.publish(path, REF, version="1", request_id="r")
    record = await record_of(ledger)
    assert (record.contract, record.requests) == (manifest.schema, (("r", "version 1 as live"),))
    with pytest.raises(ContractBrokenError):
        await publishing.publisher(store, etcd, keys, admit_with("zzz")).publish(model_file(tmp_path, "b"), REF)


async def test_publishing_many_again_finishes_what_an_operator_pointed_at_first(
    store: ArtifactStore,
    publisher: Publisher,
    moves: AliasMoves,
    etcd: Etcd,
    keys: Keys,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    items = [Item(model_file(tmp_path, "a"), REF)]
    dying = publishing.publisher(LostStore(store, "aliases"), etcd, keys)
    assert (await publish_many(partial(publish_item, dying), items)).failed == 1
    await moves.point(REF, "live", "1")
    assert (await publish_many(partial(publish_item, publisher), items)).published == 1
    assert (await record_of(ledger)).contract
    assert (await publish_many(partial(publish_item, publisher), items)).unchanged == 1
    assert await publisher.library.list_registered(REF) == ["1"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("what", ["model", "tenant"])
async def test_a_deletion_that_a_slow_publisher_missed_leaves_no_entry(
    store: ArtifactStore,
    publisher: Publisher,
    etcd: Etcd,
    keys: Keys,
    ledger: Ledger,
    tmp_path: Path,
    what: str,
    first: bool,
) -> None:
    """It has stored its record, and tells etcd after the deletion."""

    async def delete() -> None:
        await (delete_model(ledger, REF, force=True) if what == "model" else delete_tenant(ledger, REF.tenant))

    if not first:
        await publisher.publish(model_file(tmp_path, "a"), REF)
        await etcd.delete(keys.model(REF))  # as after etcd was wiped: else the publisher sees that its entry went
    slow_etcd = SlowEtcd([etcd.endpoints.current.address])
    slow_etcd.meanwhile = [delete]
    await publishing.publisher(store, slow_etcd, keys).publish(model_file(tmp_path, "slow"), REF)
    await slow_etcd.aclose()
    assert await index_entry(etcd, keys, REF) is None


@pytest.mark.parametrize("first", [True, False])
async def test_an_entry_of_a_tenant_that_went_gives_way_to_the_one_that_came(
    store: ArtifactStore, publisher: Publisher, etcd: Etcd, keys: Keys, ledger: Ledger, tmp_path: Path, first: bool
) -> None:
    """The new record has the revision of the old one, or a lower one; its publisher died before it told etcd."""
    nowhere = Etcd(["127.0.0.1:1"], timeout_s=0.2, retry_s=0.3)

    async def delete_and_publish() -> None:
        await delete_tenant(ledger, REF.tenant)
        await asyncio.gather(
            publishing.publisher(store, nowhere, keys).publish(model_file(tmp_path, "new"), REF), return_exceptions=True
        )

    if not first:
        await publisher.publish(model_file(tmp_path, "a"), REF)
        await etcd.delete(keys.model(REF))
    slow_etcd = SlowEtcd([etcd.endpoints.current.address])
    slow_etcd.meanwhile = [delete_and_publish]
    await publishing.publisher(store, slow_etcd, keys).publish(model_file(tmp_path, "slow"), REF)
    for client in (slow_etcd, nowhere):
        await client.aclose()
    await check_synced(store, etcd, keys, REF)


async def test_a_sync_takes_the_entry_of_a_model_without_a_record(etcd: Etcd, keys: Keys, ledger: Ledger) -> None:
    await etcd.put(keys.model(REF), b"{}")
    with pytest.raises(ModelNotFoundError):
        await ledger.sync(REF)
    assert await index_entry(etcd, keys, REF) is None


async def test_a_tenant_that_is_being_deleted_is_left_alone(
    publisher: Publisher, moves: AliasMoves, ledger: Ledger, tmp_path: Path
) -> None:
    for name in "ab":
        await publisher.publish(model_file(tmp_path, name), REF)
    await ledger.change_tenant(REF.tenant, lambda record: msgspec.structs.replace(record, deleting=True))
    before = await record_of(ledger)
    for asking in (
        moves.point(REF, "x", "1"),
        moves.roll_back(REF, "live"),
        moves.remove(REF, "live"),
        moves.begin(REF, "live", RolloutSpec(id="r", shadow="1")),
        moves.end(REF, "live", promote=True),
        moves.end(REF, "live", promote=False),
        publisher.publish(model_file(tmp_path, "c"), REF),
    ):
        with pytest.raises(ConflictError, match="tenant acme is being deleted"):
            await asking
    assert await record_of(ledger) == before


async def test_a_move_that_is_refused_loads_nothing(publisher: Publisher, ledger: Ledger, tmp_path: Path) -> None:
    loaded: list[str] = []

    async def prepare(_ref: ModelRef, _old: Sequence[ModelVersion], new: Sequence[ModelVersion]) -> None:
        loaded.extend(version.version for version in new)

    for name in "abc":
        await publisher.publish(model_file(tmp_path, name), REF, aliases=("live",) if name == "a" else ())
    await ledger.change(REF, retire(REF, "3"))
    moves, stale = AliasMoves(ledger, prepare), Condition(revision=1)
    with pytest.raises(ModelInUseError, match="retired"):
        await moves.point(REF, "live", "3")
    with pytest.raises(ConflictError, match="the model changed"):
        await moves.point(REF, "live", "2", stale)
    with pytest.raises(ConflictError, match="is at 1, not 7"):
        await moves.point(REF, "live", "2", expected="7")
    with pytest.raises(ModelInUseError, match="retired"):
        await moves.begin(REF, "live", RolloutSpec(id="r", shadow="3"))
    with pytest.raises(ConflictError, match="the model changed"):
        await moves.begin(REF, "live", RolloutSpec(id="r", shadow="2"), stale)
    assert loaded == []
    await moves.point(REF, "live", "2")
    assert loaded == ["2"]


async def test_too_many_aliases_are_refused_before_anything_is_stored(publisher: Publisher, tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(MOST_ALIASES + 1)]
    with pytest.raises(InvalidRequestError, match="more than 64 aliases"):
        await publisher.publish(model_file(tmp_path, "a"), REF, aliases=names)
    assert await publisher.library.list_tenants() == []
    await publisher.publish(model_file(tmp_path, "a"), REF, aliases=names[1:])
    with pytest.raises(InvalidRequestError, match="more than 64 aliases"):
        await publisher.publish(model_file(tmp_path, "b"), REF, aliases=names[:1])
