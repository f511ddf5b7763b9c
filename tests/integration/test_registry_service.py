"""Models, aliases, versions, their deletion and the rebuild, through the registry's gRPC service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ops.etcd_server import EtcdServer
from registry.manifest import Registration
from registry.model import ModelRef, ModelSchema
from registry.offer import Admitted, Offer
from registry.service.pages import token_of
from scoremesh.registry.v1 import registry_pb2 as pb
from tests.integration.publishing import SCHEMA, check_synced, constant_admit, index_entry
from tests.integration.registry_calls import (
    MODEL,
    REF,
    Rig,
    V,
    all_pages,
    names,
    onnx_like,
    refused,
    running,
)
from tests.integration.residency import Scorer, announce, serving

Status = grpc.StatusCode
GARBAGE = "?"


@pytest.fixture
async def rig(tmp_path: Path, etcd_server: EtcdServer) -> AsyncIterator[Rig]:
    async with running(tmp_path, etcd_server) as rig:
        yield rig


async def publish_all(rig: Rig, contents: str, **spec: Any) -> None:
    for content in contents:
        await rig.publish(onnx_like(content), **spec)


async def test_versions_in_every_state(rig: Rig) -> None:
    await publish_all(rig, "abc")
    ledger = rig.deployment.ledger
    await ledger.library.register(REF, Registration(version="4", source="d" * 64, created_at="then", nonce="n"))
    await rig.stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/1"))
    model = await rig.model()
    states = {version.name.rpartition("/")[2]: pb.VersionState.Name(version.state) for version in model.versions}
    assert states == {
        "1": "VERSION_STATE_RETIRED",
        "2": "VERSION_STATE_VALIDATED",
        "3": "VERSION_STATE_LIVE",
        "4": "VERSION_STATE_REGISTERED",
    }
    listed = (await rig.stub.ListVersions(pb.ListVersionsRequest(parent=MODEL))).versions
    for version in model.versions:
        version.ClearField("schema")
    assert listed == model.versions
    for version in listed:
        assert (await rig.stub.GetVersion(pb.GetVersionRequest(name=version.name))).version.state == version.state


async def test_versions_come_in_pages_by_number(rig: Rig) -> None:
    await publish_all(rig, "abcdefghijk")
    pages = await all_pages(rig.stub.ListVersions, pb.ListVersionsRequest(parent=MODEL, page_size=4), "versions")
    assert [[name.rpartition("/")[2] for name in names(page)] for page in pages] == [
        ["1", "2", "3", "4"],
        ["5", "6", "7", "8"],
        ["9", "10", "11"],
    ]


async def test_what_is_not_there(rig: Rig) -> None:
    await publish_all(rig, "a")
    stub, missing, invalid = (
        rig.stub,
        (Status.NOT_FOUND, "MODEL_NOT_FOUND"),
        (Status.INVALID_ARGUMENT, "INVALID_REQUEST"),
    )
    other = "tenants/acme/models/other"
    for call in (
        stub.GetModel(pb.GetModelRequest(name=other)),
        stub.GetVersion(pb.GetVersionRequest(name=f"{other}/versions/1")),
        stub.GetVersion(pb.GetVersionRequest(name=f"{V}/9")),
        stub.ListVersions(pb.ListVersionsRequest(parent=other)),
        stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/9")),
        stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/9")),
        stub.DeleteModel(pb.DeleteModelRequest(name=other)),
        stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias="live", version="9")),
        stub.RemoveAlias(pb.RemoveAliasRequest(model=other, alias="live")),
        stub.RollBackAlias(pb.RollBackAliasRequest(model=MODEL, alias="live")),
        stub.RollBackAlias(pb.RollBackAliasRequest(model=MODEL, alias="candidate")),
    ):
        await refused(call, *missing)
    for call in (
        stub.GetModel(pb.GetModelRequest(name="churn")),
        stub.GetVersion(pb.GetVersionRequest(name=MODEL)),
        stub.ListVersions(pb.ListVersionsRequest(parent="tenants/-")),
        stub.ListModels(pb.ListModelsRequest()),
        stub.ListModels(pb.ListModelsRequest(parent="tenants/acme", page_token=GARBAGE)),
        stub.ListModels(pb.ListModelsRequest(parent="tenants/acme", page_token=token_of("models of all", "a/b"))),
        stub.ListModels(pb.ListModelsRequest(parent="tenants/acme", page_token=token_of("models of acme", "x"))),
        stub.ListVersions(pb.ListVersionsRequest(parent=MODEL, page_token=token_of(MODEL, "9" * 5000))),
        stub.ListModels(pb.ListModelsRequest(parent="tenants/-", page_token=token_of("models of all", "a/b/c"))),
        stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/1", etag="x")),
        stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/1", request_id="r" * 129)),
        stub.DeleteModel(pb.DeleteModelRequest(name=V)),
        stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias="a b", version="1")),
        stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias="live")),
        stub.RemoveAlias(pb.RemoveAliasRequest(model=MODEL, alias="!")),
        stub.RollBackAlias(pb.RollBackAliasRequest(model="")),
        stub.Rebuild(pb.RebuildRequest(name="tenants/a/b")).read(),
        stub.Rebuild(pb.RebuildRequest(name="tenants/acme/models/")).read(),
    ):
        await refused(call, *invalid)


async def test_250_models_of_several_tenants_in_pages(rig: Rig) -> None:
    refs = [ModelRef(tenant, f"m{number:03}") for tenant in ("a", "b", "c-d") for number in range(84)][:250]
    gate = asyncio.Semaphore(8)

    async def publish(ref: ModelRef) -> None:
        async with gate:
            await rig.publish(onnx_like(str(ref)), f"tenants/{ref.tenant}/models/{ref.model}")

    await asyncio.gather(*(publish(ref) for ref in refs))
    expected = [f"tenants/{ref.tenant}/models/{ref.model}" for ref in refs]
    listing = rig.stub.ListModels
    for size, count in ((0, [100, 100, 50]), (83, [83, 83, 83, 1]), (5000, [250]), (125, [125, 125])):
        pages = await all_pages(listing, pb.ListModelsRequest(parent="tenants/-", page_size=size), "models")
        assert [len(page) for page in pages] == count
        assert [name for page in pages for name in names(page)] == expected
    pages = await all_pages(listing, pb.ListModelsRequest(parent="tenants/b", page_size=50), "models")
    assert [name for page in pages for name in names(page)] == expected[84:168]
    assert all(model.aliases == {"live": "1"} and model.etag == "1" for page in pages for model in page)

    first = await listing(pb.ListModelsRequest(parent="tenants/b", page_size=2))
    await rig.stub.DeleteModel(pb.DeleteModelRequest(name="tenants/b/models/m001", force=True))
    second = await listing(pb.ListModelsRequest(parent="tenants/b", page_size=2, page_token=first.next_page_token))
    assert names(second.models) == ["tenants/b/models/m002", "tenants/b/models/m003"]
    pages = await all_pages(listing, pb.ListModelsRequest(parent="tenants/b", page_size=2), "models")
    assert names(pages[0]) == ["tenants/b/models/m000"]
    assert sum(len(page) for page in pages) == 83
    assert await all_pages(listing, pb.ListModelsRequest(parent="tenants/nobody"), "models") == [[]]


async def test_an_alias_moves_if_it_is_where_it_is_thought_to_be(rig: Rig) -> None:
    await publish_all(rig, "abc", aliases=[])
    stub, conflict = rig.stub, (Status.ABORTED, "CONFLICT")

    async def point(version: str, **more: Any) -> dict[str, str]:
        answer = await stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias="live", version=version, **more))
        return dict(answer.model.aliases)

    text = await refused(point("1", expected_version="2"), *conflict)
    assert text == "alias live of model acme/churn is at nothing, not 2"
    assert await point("1", expected_version="-") == {"live": "1"}
    await refused(point("2", expected_version="-"), *conflict)
    assert await point("2", expected_version="1") == {"live": "2"}
    etag = (await rig.model()).etag
    assert await point("3", etag=etag) == {"live": "3"}
    text = await refused(point("1", etag=etag), *conflict)
    assert "its revision is 6, not 5" in text
    assert await point("3") == {"live": "3"}
    assert (await rig.model()).etag == "6"
    await check_synced(rig.store, rig.deployment.ledger.etcd, rig.keys, REF)


async def test_a_repeated_request_is_not_carried_out_again(rig: Rig) -> None:
    await publish_all(rig, "abc")
    stub = rig.stub
    there = pb.SetAliasRequest(model=MODEL, alias="live", version="1", request_id="r1", etag="3")
    back = pb.RollBackAliasRequest(model=MODEL, alias="live", request_id="r2")
    assert (await stub.SetAlias(there)).model.aliases == {"live": "1"}
    assert (await stub.RollBackAlias(back)).model.aliases == {"live": "3"}
    etag = (await rig.model()).etag
    assert (await stub.SetAlias(there)).model.aliases == {"live": "3"}
    assert (await stub.RollBackAlias(back)).model.aliases == {"live": "3"}
    retire = pb.RetireVersionRequest(name=f"{V}/2", request_id="r3", etag=etag)
    assert (await stub.RetireVersion(retire)).version.state == pb.VERSION_STATE_RETIRED
    assert (await stub.RetireVersion(retire)).version.state == pb.VERSION_STATE_RETIRED
    gone = pb.RemoveAliasRequest(model=MODEL, alias="live", request_id="r4")
    assert (await stub.RemoveAlias(gone)).model.aliases == {}
    assert (await stub.RemoveAlias(gone)).model.aliases == {}
    assert int((await rig.model()).etag) == int(etag) + 2


async def test_a_version_in_use_stays(rig: Rig) -> None:
    await publish_all(rig, "ab")
    stub, in_use = rig.stub, (Status.FAILED_PRECONDITION, "MODEL_IN_USE")
    for call in (
        stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/2")),
        stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/2")),
    ):
        assert "alias live points at it" in await refused(call, *in_use)
    assert "alias live at version 2" in await refused(stub.DeleteModel(pb.DeleteModelRequest(name=MODEL)), *in_use)
    await stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/1"))
    point = pb.SetAliasRequest(model=MODEL, alias="live", version="1")
    assert "is retired" in await refused(stub.SetAlias(point), *in_use)
    etag = (await rig.model()).etag
    await refused(
        stub.RemoveAlias(pb.RemoveAliasRequest(model=MODEL, alias="live", etag=str(int(etag) - 1))),
        Status.ABORTED,
        "CONFLICT",
    )
    await refused(stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/1", etag="1")), Status.ABORTED, "CONFLICT")


async def test_a_deleted_version_is_gone_for_ever(rig: Rig) -> None:
    await publish_all(rig, "ab")
    removed = (await rig.stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/1"))).removed
    assert (removed.versions, removed.models, list(removed.unreached_members)) == (1, 0, [])
    assert removed.objects >= 2
    assert names((await rig.model()).versions) == [f"{V}/2"]
    text = await refused(rig.stub.GetVersion(pb.GetVersionRequest(name=f"{V}/1")), Status.NOT_FOUND, "MODEL_NOT_FOUND")
    assert text == "version 1 of model acme/churn was deleted"
    await refused(rig.publish(onnx_like("a"), version="1"), Status.ABORTED, "CONFLICT")
    again = (await rig.stub.DeleteVersion(pb.DeleteVersionRequest(name=f"{V}/1"))).removed
    assert (again.versions, again.objects) == (0, 0)


async def test_a_deleted_model_is_gone_and_may_come_again(rig: Rig) -> None:
    await publish_all(rig, "ab")
    etcd = rig.deployment.ledger.etcd
    delete = rig.stub.DeleteModel
    await refused(delete(pb.DeleteModelRequest(name=MODEL, force=True, etag="1")), Status.ABORTED, "CONFLICT")
    removed = (await delete(pb.DeleteModelRequest(name=MODEL, force=True, etag="2"))).removed
    assert (removed.models, removed.versions, removed.index_entries) == (1, 2, 1)
    assert await index_entry(etcd, rig.keys, REF) is None
    for call in (
        rig.model(),
        rig.stub.ListVersions(pb.ListVersionsRequest(parent=MODEL)),
        rig.stub.GetVersion(pb.GetVersionRequest(name=f"{V}/1")),
    ):
        await refused(call, Status.NOT_FOUND, "MODEL_NOT_FOUND")
    assert (await rig.stub.ListModels(pb.ListModelsRequest(parent="tenants/-"))).models == []
    assert (await rig.publish(onnx_like("c"), version="new")).state == pb.VERSION_STATE_LIVE
    assert names((await rig.model()).versions) == [f"{V}/new"]


async def test_deletions_can_be_repeated(rig: Rig) -> None:
    await publish_all(rig, "ab")
    version = pb.DeleteVersionRequest(name=f"{V}/1", etag=(await rig.model()).etag)
    assert (await rig.stub.DeleteVersion(version)).removed.versions == 1
    assert (await rig.stub.DeleteVersion(version)).removed == pb.Removed()
    version.name = f"{V}/2"
    await refused(rig.stub.DeleteVersion(version), Status.ABORTED, "CONFLICT")
    model = pb.DeleteModelRequest(name=MODEL, force=True, etag=(await rig.model()).etag)
    assert (await rig.stub.DeleteModel(model)).removed.models == 1
    assert (await rig.stub.DeleteModel(model)).removed == pb.Removed()


async def test_a_repeated_deletion_leaves_alone_what_came_again(rig: Rig) -> None:
    await publish_all(rig, "a")
    delete = pb.DeleteModelRequest(name=MODEL, force=True, request_id="r")
    assert (await rig.stub.DeleteModel(delete)).removed.models == 1
    assert (await rig.stub.DeleteModel(delete)).removed == pb.Removed()
    again = await rig.publish(onnx_like("b"))
    assert (await rig.stub.DeleteModel(delete)).removed == pb.Removed()
    assert (await rig.model()).aliases == {"live": again.name.rpartition("/")[2]}
    await check_synced(rig.store, rig.deployment.ledger.etcd, rig.keys, REF)
    never = pb.DeleteModelRequest(name="tenants/acme/models/never", request_id="r")
    await refused(rig.stub.DeleteModel(never), Status.NOT_FOUND, "MODEL_NOT_FOUND")
    delete.request_id = "r" * 129
    await refused(rig.stub.DeleteModel(delete), Status.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_request_id_of_another_request_deletes_nothing(rig: Rig) -> None:
    await publish_all(rig, "abc")
    await rig.stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/1", request_id="r"))
    conflict = (Status.ABORTED, "CONFLICT")
    for name in (f"{V}/1", f"{V}/2"):
        await refused(rig.stub.DeleteVersion(pb.DeleteVersionRequest(name=name, request_id="r")), *conflict)
    await refused(rig.stub.RetireVersion(pb.RetireVersionRequest(name=f"{V}/2", request_id="r")), *conflict)
    await refused(rig.stub.DeleteModel(pb.DeleteModelRequest(name=MODEL, force=True, request_id="r")), *conflict)
    assert len((await rig.model()).versions) == 3
    await check_synced(rig.store, rig.deployment.ledger.etcd, rig.keys, REF)


async def wide_admit(offer: Offer) -> Admitted:
    """A schema of its own for each file, of 20 kB."""
    mark = offer.digest[:8]
    schema = ModelSchema(tuple(f"feature_number_{number}_{mark}" for number in range(600)), SCHEMA.outputs)
    return (await constant_admit(offer))._replace(schema=schema)


async def test_a_model_with_many_versions_is_shown_in_part(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async with running(tmp_path, etcd_server, wide_admit) as rig:
        for number in range(1, 206):
            alias = {10: ["old"], 205: ["live"]}.get(number, [])
            await rig.publish(onnx_like(str(number)), aliases=alias, allow_breaking=True)
        model = await rig.model()
        assert names(model.versions) == [f"{V}/{number}" for number in range(6, 206)]
        told = [version.name.rpartition("/")[2] for version in model.versions if version.HasField("schema")]
        assert told == [str(number) for number in (10, *range(186, 206))]
        assert [len(version.schema.features) for version in model.versions[-2:]] == [600, 600]
        pages = await all_pages(rig.stub.ListVersions, pb.ListVersionsRequest(parent=MODEL), "versions")
        assert sum(map(len, pages)) == 205


async def test_large_versions_are_shown_as_far_as_they_fit(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async with running(tmp_path, etcd_server, wide_admit) as rig:
        for number in range(1, 61):
            await rig.publish(
                onnx_like(str(number)), aliases=["live"], training={"log": "x" * 65_000}, allow_breaking=True
            )
        model = await rig.model()
        assert 20 < len(model.versions) < 60
        assert names(model.versions) == [f"{V}/{number}" for number in range(61 - len(model.versions), 61)]
        assert model.versions[-1].HasField("schema")
        pages = await all_pages(rig.stub.ListVersions, pb.ListVersionsRequest(parent=MODEL), "versions")
        assert [name for page in pages for name in names(page)] == [f"{V}/{number}" for number in range(1, 61)]
        assert len(pages) == 2


async def test_lists_leave_out_what_is_damaged(rig: Rig) -> None:
    for number in range(3):
        await rig.publish(onnx_like(str(number)))
        await rig.publish(onnx_like(str(number)), f"tenants/acme/models/m{number}")
    store = rig.folder / "store/tenants/acme/models"
    await asyncio.to_thread((store / "m1/aliases/00000000000000000001.json").write_bytes, b"{")
    await asyncio.to_thread((store / "churn/versions/2.json").write_bytes, b"{")
    for parent in ("tenants/acme", "tenants/-"):
        pages = await all_pages(rig.stub.ListModels, pb.ListModelsRequest(parent=parent, page_size=2), "models")
        found = [name.rpartition("/")[2] for page in pages for name in names(page)]
        assert found == ["churn", "m0", "m2"]
    versions = (await rig.stub.ListVersions(pb.ListVersionsRequest(parent=MODEL))).versions
    assert names(versions) == names((await rig.model()).versions) == [f"{V}/1", f"{V}/3"]
    unusable = (Status.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    await refused(rig.model("tenants/acme/models/m1"), *unusable)
    await refused(rig.stub.GetVersion(pb.GetVersionRequest(name=f"{V}/2")), *unusable)


async def test_scorers_load_first(rig: Rig) -> None:
    etcd = rig.deployment.ledger.etcd
    not_prepared = (Status.FAILED_PRECONDITION, "NOT_PREPARED")
    async with serving(Scorer("s1")) as scorer:
        await announce(etcd, rig.keys, scorer.member)
        scorer.resident.add((await rig.publish(onnx_like("a"))).package)
        assert (await rig.publish(onnx_like("b"))).package in scorer.resident
        scorer.broken.add((await rig.publish(onnx_like("c"), aliases=[])).package)
        point = pb.SetAliasRequest(model=MODEL, alias="live", version="3")
        text = await refused(rig.stub.SetAlias(point), *not_prepared)
        assert "member s1" in text
        assert "version 3 is damaged" in text
        assert (await rig.model()).aliases == {"live": "2"}
        text = await refused(rig.publish(onnx_like("c"), version="x"), *not_prepared)
        model = await rig.model()
        assert model.aliases == {"live": "2"}
        assert names(model.versions) == [f"{V}/1", f"{V}/2", f"{V}/3", f"{V}/x"]
        point.unprepared, point.request_id = True, "r"
        assert (await rig.stub.SetAlias(point)).model.aliases == {"live": "3"}
        assert len(scorer.resident) == 2
        await rig.stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias="live", version="2"))
        point.unprepared = False
        assert (await rig.stub.SetAlias(point)).model.aliases == {"live": "2"}  # done before: nothing to prepare


async def test_rebuild_brings_back_what_etcd_lost(rig: Rig) -> None:
    for tenant in ("a", "b"):
        for number in range(20):
            await rig.publish(onnx_like(f"{tenant}{number}"), f"tenants/{tenant}/models/m{number}")
    await rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(name="tenants/a", shard_size=3)))
    etcd, keys = rig.deployment.ledger.etcd, rig.keys
    before = (await etcd.list_prefix(f"/scoremesh/{rig.cluster}/".encode())).kvs
    await etcd.delete_prefix(f"/scoremesh/{rig.cluster}/".encode())
    one = [each async for each in rig.stub.Rebuild(pb.RebuildRequest(name="tenants/a/models/m7"))]
    assert (one[-1].models, one[-1].written) == (1, 1)
    whole = [each async for each in rig.stub.Rebuild(pb.RebuildRequest(name="tenants/a"))]
    assert (whole[-1].models, whole[-1].removed, whole[-1].failed) == (20, 0, 0)
    rest = [each async for each in rig.stub.Rebuild(pb.RebuildRequest())]
    assert rest[-1].models == 40
    assert rest[-1].elapsed_s > 0
    after = (await etcd.list_prefix(f"/scoremesh/{rig.cluster}/".encode())).kvs
    assert [(kv.key, kv.value) for kv in after] == [(kv.key, kv.value) for kv in before]
    assert keys.tenant("a") in [kv.key for kv in after]


async def test_rebuild_names_what_is_damaged(rig: Rig) -> None:
    await rig.publish(onnx_like("a"))
    await rig.publish(onnx_like("b"), "tenants/acme/models/other")
    path = rig.folder / "store/tenants/acme/models/churn/aliases/00000000000000000001.json"
    await asyncio.to_thread(path.write_bytes, b"{")
    answers = [each async for each in rig.stub.Rebuild(pb.RebuildRequest(name="tenants/acme"))]
    [failed] = [each for each in answers if each.failure]
    assert failed.model == MODEL
    assert "is damaged" in failed.failure
    assert (answers[-1].failed, answers[-1].failure) == (1, "")
    text = await refused(rig.model(), Status.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    assert "aliases/00000000000000000001.json" in text


async def test_a_rebuild_that_nobody_waits_for_ends(rig: Rig) -> None:
    await rig.publish(onnx_like("a"))
    call = rig.stub.Rebuild(pb.RebuildRequest())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    answers = [each async for each in rig.stub.Rebuild(pb.RebuildRequest())]
    assert answers[-1].models == 1


async def test_an_unknown_failure_says_nothing_of_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_tenant: str) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(rig.deployment.ledger.library, "newest_tenant", fail)
    text = await refused(rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/a")), Status.INTERNAL, "INTERNAL")
    assert text.startswith("internal error, incident ")


async def test_a_text_that_is_too_long_for_trailers_is_cut(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async with running(tmp_path, etcd_server) as rig:
        await publish_all(rig, "a")
        for number in range(60):
            alias = f"alias-{number:03}-" + "x" * 110
            await rig.stub.SetAlias(pb.SetAliasRequest(model=MODEL, alias=alias, version="1"))
        text = await refused(
            rig.stub.DeleteModel(pb.DeleteModelRequest(name=MODEL)), Status.FAILED_PRECONDITION, "MODEL_IN_USE"
        )
        assert text.endswith(" ...")
        assert 1000 < len(text) < 2000
