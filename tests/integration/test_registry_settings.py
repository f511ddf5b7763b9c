"""Tenants, applications and quarantine, through the registry's gRPC service."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from ops.etcd_server import EtcdServer
from registry.keys import decode, encode
from registry.model import ApplicationRecord, ModelRef, ModelSchema, TenantRecord
from registry.offer import Admitted, Offer
from registry.quarantine import Quarantine, quarantined
from registry.service.contracts import ContractCheck
from registry.service.schemas import to_schema
from scoremesh.registry.v1 import registry_pb2 as pb
from tests.integration.publishing import SCHEMA, constant_admit
from tests.integration.registry_calls import MODEL, REF, Rig, all_pages, names, onnx_like, refused, running

Status = grpc.StatusCode
GARBAGE = "?"
CONFLICT = (Status.ABORTED, "CONFLICT")
INVALID = (Status.INVALID_ARGUMENT, "INVALID_REQUEST")
MISSING = (Status.NOT_FOUND, "NOT_FOUND")
SETTINGS: dict[str, Any] = {
    "shard_size": 3,
    "requests_per_s": 50.5,
    "concurrency": 8,
    "guaranteed_bytes": 1 << 20,
    "max_bytes": 1 << 30,
    "premium": True,
    "dedicated_pool": "acme",
    "hedge": True,
}


@pytest.fixture
async def rig(tmp_path: Path, etcd_server: EtcdServer) -> AsyncIterator[Rig]:
    async with running(tmp_path, etcd_server) as rig:
        yield rig


async def tenant_in_etcd(rig: Rig, tenant: str) -> TenantRecord | None:
    _, found = await rig.deployment.ledger.etcd.get(rig.keys.tenant(tenant))
    return decode(TenantRecord, found.value) if found is not None else None


async def test_a_tenant_from_creation_to_deletion(rig: Rig) -> None:
    stub = rig.stub
    created = (
        await stub.CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(name="tenants/acme", **SETTINGS)))
    ).tenant
    assert created.etag == "1"
    assert {name: getattr(created, name) for name in SETTINGS} == SETTINGS
    assert (await stub.GetTenant(pb.GetTenantRequest(name="tenants/acme"))).tenant == created
    held = await tenant_in_etcd(rig, "acme")
    assert held is not None
    assert (held.shard_size, held.premium, held.created_at) == (3, True, created.create_time)
    wanted = pb.Tenant(name="tenants/acme", concurrency=9, etag="1")
    changed = (await stub.UpdateTenant(pb.UpdateTenantRequest(tenant=wanted))).tenant
    assert (changed.concurrency, changed.shard_size, changed.etag) == (9, 0, "2")
    assert changed.create_time == created.create_time
    for etag in ("1", ""):  # repeated
        wanted.etag = etag
        assert (await stub.UpdateTenant(pb.UpdateTenantRequest(tenant=wanted))).tenant == changed
    other = pb.Tenant(name="tenants/acme", concurrency=10, etag="1")
    text = await refused(stub.UpdateTenant(pb.UpdateTenantRequest(tenant=other)), *CONFLICT)
    assert "its revision is 2, not 1" in text
    assert (await stub.UpdateTenant(pb.UpdateTenantRequest(tenant=wanted))).tenant == changed
    await rig.publish(onnx_like("a"))
    removed = (await stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/acme"))).removed
    assert (removed.models, removed.versions) == (1, 1)
    assert removed.objects >= 4
    assert await rig.objects() == []
    assert await tenant_in_etcd(rig, "acme") is None
    await refused(stub.GetTenant(pb.GetTenantRequest(name="tenants/acme")), *MISSING)
    await refused(stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/acme")), *MISSING)
    assert list((await stub.ListTenants(pb.ListTenantsRequest())).tenants) == []
    again = (await stub.CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(name="tenants/acme")))).tenant
    assert again.etag == "1"


async def test_a_tenant_is_created_once(rig: Rig) -> None:
    request = pb.CreateTenantRequest(tenant=pb.Tenant(name="tenants/acme", concurrency=3))
    await rig.stub.CreateTenant(request)
    await rig.deployment.ledger.etcd.delete(rig.keys.tenant("acme"))
    text = await refused(rig.stub.CreateTenant(request), Status.ALREADY_EXISTS, "TENANT_EXISTS")
    assert text == "tenant acme has settings already"
    held = await tenant_in_etcd(rig, "acme")
    assert held is not None
    assert held.concurrency == 3


async def test_one_of_many_creates_a_tenant(rig: Rig) -> None:
    async def create(size: int) -> bool:
        tenant = pb.Tenant(name="tenants/acme", shard_size=size)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=tenant))
            return True
        return False

    created = await asyncio.gather(*(create(size) for size in range(1, 9)))
    assert sum(created) == 1
    found = (await rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/acme"))).tenant
    assert found.shard_size == created.index(True) + 1


async def test_a_tenant_without_settings_has_the_defaults(rig: Rig) -> None:
    await rig.publish(onnx_like("a"))
    found = (await rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/acme"))).tenant
    assert found == pb.Tenant(name="tenants/acme")
    assert list((await rig.stub.ListTenants(pb.ListTenantsRequest())).tenants) == [found]
    wanted = pb.Tenant(name="tenants/acme", concurrency=2)
    assert (await rig.stub.UpdateTenant(pb.UpdateTenantRequest(tenant=wanted))).tenant.etag == "1"
    nobody = pb.UpdateTenantRequest(tenant=pb.Tenant(name="tenants/nobody"))
    await refused(rig.stub.UpdateTenant(nobody), *MISSING)


async def test_a_tenant_that_goes(rig: Rig) -> None:
    ledger = rig.deployment.ledger
    await ledger.change_tenant("acme", lambda record: msgspec.structs.replace(record, deleting=True))
    tenant = pb.Tenant(name="tenants/acme")
    await refused(rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=tenant)), *CONFLICT)
    await refused(rig.stub.UpdateTenant(pb.UpdateTenantRequest(tenant=tenant)), *CONFLICT)
    assert (await rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/acme"))).tenant.deleting
    await rig.stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/acme"))
    await refused(rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/acme")), *MISSING)


async def test_tenants_in_pages(rig: Rig) -> None:
    wanted = [f"tenants/t{number:02}" for number in range(23)]
    for name in wanted:
        await rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(name=name)))
    pages = await all_pages(rig.stub.ListTenants, pb.ListTenantsRequest(page_size=10), "tenants")
    assert [names(page) for page in pages] == [wanted[:10], wanted[10:20], wanted[20:]]


async def test_tenants_that_can_not_be(rig: Rig) -> None:
    for tenant in (
        pb.Tenant(),
        pb.Tenant(name="acme"),
        pb.Tenant(name="tenants/-"),
        pb.Tenant(name="tenants/acme", requests_per_s=math.nan),
        pb.Tenant(name="tenants/acme", guaranteed_bytes=2, max_bytes=1),
    ):
        await refused(rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=tenant)), *INVALID)
        await refused(rig.stub.UpdateTenant(pb.UpdateTenantRequest(tenant=tenant)), *INVALID)
    await refused(rig.stub.GetTenant(pb.GetTenantRequest(name="acme")), *INVALID)
    await refused(rig.stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/")), *INVALID)
    await refused(rig.stub.ListTenants(pb.ListTenantsRequest(page_token=GARBAGE)), *INVALID)
    assert await rig.objects() == []


def application(*, etag: str = "", name: str = "applications/churn", **more: str) -> pb.Application:
    return pb.Application(name=name, etag=etag, contract=to_schema(SCHEMA), **more)


async def put(rig: Rig, wanted: pb.Application, *, allow_breaking: bool = False) -> pb.Application:
    request = pb.SetApplicationRequest(application=wanted, allow_breaking=allow_breaking)
    found: pb.Application = (await rig.stub.SetApplication(request)).application
    return found


async def test_an_application_from_creation_to_deletion(rig: Rig) -> None:
    await rig.publish(onnx_like("a"))
    created = await put(rig, application(shared_model=MODEL, pool="lightgbm-4"))
    assert (created.etag, created.shared_model, created.pool) == ("1", MODEL, "lightgbm-4")
    assert created.contract == to_schema(SCHEMA)
    get = pb.GetApplicationRequest(name="applications/churn")
    assert (await rig.stub.GetApplication(get)).application == created
    _, found = await rig.deployment.ledger.etcd.get(rig.keys.application("churn"))
    assert found is not None
    assert decode(ApplicationRecord, found.value).shared == REF
    assert await put(rig, application(shared_model=MODEL, pool="lightgbm-4")) == created
    assert "give its etag" in await refused(put(rig, application()), *CONFLICT)
    assert "its revision is 1, not 2" in await refused(put(rig, application(etag="2")), *CONFLICT)
    changed = await put(rig, application(etag="1"))
    assert (changed.etag, changed.pool, changed.shared_model) == ("2", "", "")
    assert changed.create_time == created.create_time
    delete = pb.DeleteApplicationRequest(name="applications/churn", etag="1")
    await refused(rig.stub.DeleteApplication(delete), *CONFLICT)
    delete.etag = "2"
    assert (await rig.stub.DeleteApplication(delete)).application == changed
    assert (await rig.stub.DeleteApplication(delete)).application == changed  # repeated
    delete.etag = ""
    for call in (rig.stub.DeleteApplication(delete), rig.stub.GetApplication(get)):
        await refused(call, *MISSING)
    assert list((await rig.stub.ListApplications(pb.ListApplicationsRequest())).applications) == []
    await refused(rig.publish(onnx_like("b"), application="churn"), *MISSING)
    again = await put(rig, application())
    assert again.etag == "4"
    assert again.create_time > created.create_time


async def test_a_contract_is_kept_to_or_broken_on_purpose(rig: Rig) -> None:
    await put(rig, application())
    narrower = application(etag="1")
    narrower.contract.CopyFrom(to_schema(ModelSchema(("age",), SCHEMA.outputs)))
    text = await refused(put(rig, narrower), Status.FAILED_PRECONDITION, "CONTRACT_BROKEN")
    assert "feature 2 (income)" in text
    assert (await put(rig, narrower, allow_breaking=True)).etag == "2"
    text = await refused(
        rig.publish(onnx_like("a"), application="churn"), Status.FAILED_PRECONDITION, "CONTRACT_BROKEN"
    )
    assert "of application churn" in text


async def test_applications_that_can_not_be(rig: Rig) -> None:
    for wanted in (
        pb.Application(),
        pb.Application(name="churn"),
        application(shared_model="acme/churn"),
        application(pool="a b"),
        application(etag="x"),
        pb.Application(name="applications/churn", contract=pb.Schema(features=[pb.Feature()])),
    ):
        await refused(put(rig, wanted), *INVALID)
    await refused(put(rig, application(shared_model=MODEL)), Status.NOT_FOUND, "MODEL_NOT_FOUND")
    await refused(put(rig, application(etag="1")), *CONFLICT)
    await refused(rig.stub.GetApplication(pb.GetApplicationRequest()), *INVALID)
    await refused(rig.stub.DeleteApplication(pb.DeleteApplicationRequest(name="x/y")), *INVALID)
    assert await rig.objects() == []


async def test_the_models_that_a_contract_breaks_are_told(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async def admit(offer: Offer) -> Admitted:
        columns = tuple(offer.data.decode(errors="replace").partition("test")[2].split(","))
        return (await constant_admit(offer))._replace(schema=ModelSchema(columns, SCHEMA.outputs))

    async with running(tmp_path, etcd_server, admit) as rig:
        created = await put(rig, pb.Application(name="applications/churn"))
        for tenant, columns in (("a", "age,income"), ("b", "income,age"), ("c", "age,income"), ("d", "age")):
            await rig.publish(onnx_like(columns), f"tenants/{tenant}/models/m", application="churn")
        await rig.publish(onnx_like("other"), "tenants/b/models/not-of-it")
        await rig.publish(onnx_like("other"), "tenants/b/models/not-live", application="churn", aliases=["old"])
        await rig.publish(onnx_like("other"), "tenants/b/models/gone", application="churn")
        await rig.stub.DeleteModel(pb.DeleteModelRequest(name="tenants/b/models/gone", force=True))
        await rig.publish(onnx_like("other"), "tenants/b/models/damaged", application="churn")
        await asyncio.to_thread(damage, rig, "tenants/b/models/damaged/aliases/00000000000000000001.json")
        request = pb.SetApplicationRequest(application=application(etag=created.etag))
        assert (await rig.stub.SetApplication(request)).breaking_models == []
        request.check_models = True
        for _ in range(2):
            found = await rig.stub.SetApplication(request)
            assert found.breaking_models == ["tenants/b/models/m", "tenants/d/models/m"]
            assert found.application.etag == "2"
        check = ContractCheck(rig.deployment.ledger.library)
        assert await check.breaking("churn", SCHEMA, most=1) == [ModelRef("b", "m")]


async def test_a_contract_that_is_too_large_is_refused(rig: Rig) -> None:
    wanted = pb.Application(name="applications/big")
    wanted.contract.features.extend(pb.Feature(name=f"feature_number_{number:020d}") for number in range(15_000))
    assert "application.contract" in await refused(put(rig, wanted), *INVALID)
    assert await rig.objects() == []


async def test_large_applications_come_in_several_pages(rig: Rig) -> None:
    wanted = [f"applications/a{number:02}" for number in range(12)]
    for name in wanted:
        large = application(name=name)
        del large.contract.features[:]
        large.contract.features.extend(pb.Feature(name=f"feature_number_{number:020d}") for number in range(13_000))
        await put(rig, large)
    pages = await all_pages(rig.stub.ListApplications, pb.ListApplicationsRequest(), "applications")
    assert len(pages) > 1
    assert [name for page in pages for name in names(page)] == wanted


def damage(rig: Rig, path: str) -> None:
    (rig.folder / "store" / path).write_bytes(b"{")


async def test_lists_leave_out_what_is_damaged(rig: Rig) -> None:
    first = "00000000000000000001.json"
    for name in ("a", "b", "c"):
        await put(rig, application(name=f"applications/{name}"))
        await rig.stub.CreateTenant(pb.CreateTenantRequest(tenant=pb.Tenant(name=f"tenants/{name}")))
    await asyncio.to_thread(damage, rig, f"applications/b/{first}")
    await asyncio.to_thread(damage, rig, f"tenants/b/settings/{first}")
    applications = (await rig.stub.ListApplications(pb.ListApplicationsRequest())).applications
    assert names(applications) == ["applications/a", "applications/c"]
    assert names((await rig.stub.ListTenants(pb.ListTenantsRequest())).tenants) == ["tenants/a", "tenants/c"]
    unusable = (Status.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    await refused(rig.stub.GetTenant(pb.GetTenantRequest(name="tenants/b")), *unusable)


async def test_a_tenants_repeated_requests(rig: Rig) -> None:
    stub = rig.stub
    create = pb.CreateTenantRequest(tenant=pb.Tenant(name="tenants/acme", concurrency=3), request_id="r1")
    created = await stub.CreateTenant(create)
    assert await stub.CreateTenant(create) == created
    held = await tenant_in_etcd(rig, "acme")
    assert held is not None
    assert (held.revision, held.request_id) == (1, "r1")
    create.request_id = "r2"
    await refused(stub.CreateTenant(create), Status.ALREADY_EXISTS, "TENANT_EXISTS")
    update = pb.UpdateTenantRequest(tenant=pb.Tenant(name="tenants/acme", concurrency=4, etag="1"), request_id="r3")
    updated = await stub.UpdateTenant(update)
    assert updated.tenant.etag == "2"
    assert await stub.UpdateTenant(update) == updated
    update.tenant.concurrency = 5
    assert "request r3" in await refused(stub.UpdateTenant(update), *CONFLICT)
    delete = pb.DeleteTenantRequest(name="tenants/acme", request_id="r4")
    assert (await stub.DeleteTenant(delete)).removed.objects == 3
    assert (await stub.DeleteTenant(delete)).removed == pb.Removed()
    delete.request_id = ""
    await refused(stub.DeleteTenant(delete), *MISSING)
    for call in (
        stub.CreateTenant(pb.CreateTenantRequest(tenant=create.tenant, request_id="r" * 129)),
        stub.UpdateTenant(pb.UpdateTenantRequest(tenant=create.tenant, request_id="r" * 129)),
        stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/acme", request_id="r" * 129)),
    ):
        assert "request_id" in await refused(call, *INVALID)


async def test_an_applications_repeated_requests(rig: Rig) -> None:
    stub = rig.stub
    put_it = pb.SetApplicationRequest(application=application(), request_id="r1")
    created = await stub.SetApplication(put_it)
    assert await stub.SetApplication(put_it) == created
    put_it.application.pool = "fast"
    assert "request r1" in await refused(stub.SetApplication(put_it), *CONFLICT)
    delete = pb.DeleteApplicationRequest(name="applications/churn", request_id="r2")
    deleted = await stub.DeleteApplication(delete)
    assert deleted.application == created.application
    assert await stub.DeleteApplication(delete) == deleted
    delete.request_id = "r3"
    await refused(stub.DeleteApplication(delete), *MISSING)
    again = await stub.SetApplication(pb.SetApplicationRequest(application=application(), request_id="r4"))
    assert again.application.etag == "3"
    delete.request_id = "r" * 129
    assert "request_id" in await refused(stub.DeleteApplication(delete), *INVALID)


async def test_a_shared_model_stays(rig: Rig) -> None:
    await rig.publish(onnx_like("a"), aliases=[])
    await put(rig, application(shared_model=MODEL))
    in_use = (Status.FAILED_PRECONDITION, "MODEL_IN_USE")
    assert "churn" in await refused(rig.stub.DeleteModel(pb.DeleteModelRequest(name=MODEL)), *in_use)
    assert "churn" in await refused(rig.stub.DeleteTenant(pb.DeleteTenantRequest(name="tenants/acme")), *in_use)
    assert (await rig.model()).name == MODEL


async def test_applications_in_pages(rig: Rig) -> None:
    wanted = [f"applications/a{number}" for number in range(7)]
    for name in wanted:
        await put(rig, application(name=name))
    await rig.stub.DeleteApplication(pb.DeleteApplicationRequest(name="applications/a1"))
    request = pb.ListApplicationsRequest(page_size=3)
    pages = await all_pages(rig.stub.ListApplications, request, "applications")
    assert [names(page) for page in pages] == [[wanted[0], wanted[2]], wanted[3:6], wanted[6:]]


async def test_quarantine_is_listed_and_lifted(rig: Rig) -> None:
    quarantine = Quarantine(rig.deployment.ledger.etcd, rig.keys)
    now = datetime.now(UTC)
    for package in ("p3", "p1", "p2"):
        await quarantine.put(quarantined(package, "crashed", "s-1", now=now, ttl_s=600, seen=(REF, "3")))
    await rig.deployment.ledger.etcd.put(rig.keys.quarantine("garbage"), b"{")
    pages = await all_pages(rig.stub.ListQuarantine, pb.ListQuarantineRequest(page_size=2), "packages")
    assert [names(page) for page in pages] == [["quarantine/p1", "quarantine/p2"], ["quarantine/p3"]]
    first = pages[0][0]
    assert (first.reason, first.by, first.version) == ("crashed", "s-1", f"{MODEL}/versions/3")
    lift = pb.LiftQuarantineRequest(name="quarantine/p1")
    assert (await rig.stub.LiftQuarantine(lift)).package == first
    assert "p1 is not in quarantine" in await refused(rig.stub.LiftQuarantine(lift), *MISSING)
    await refused(rig.stub.LiftQuarantine(pb.LiftQuarantineRequest(name="p2")), *INVALID)
    await refused(rig.stub.ListQuarantine(pb.ListQuarantineRequest(page_token=GARBAGE)), *INVALID)
    garbage = pb.LiftQuarantineRequest(name="quarantine/garbage")
    assert (await rig.stub.LiftQuarantine(garbage)).package.name == "quarantine/garbage"
    assert [record.package for record in await quarantine.list()] == ["p2", "p3"]
    lift.request_id = "r"
    assert (await rig.stub.LiftQuarantine(lift)).package == pb.QuarantinedPackage(name="quarantine/p1")
    lift.request_id = "r" * 129
    assert "request_id" in await refused(rig.stub.LiftQuarantine(lift), *INVALID)


async def test_a_quarantine_under_another_key_is_not_listed(rig: Rig) -> None:
    foreign = quarantined("a b", "said so", "ann", now=datetime.now(UTC))
    await rig.deployment.ledger.etcd.put(rig.keys.quarantine("ab"), encode(foreign))
    assert await Quarantine(rig.deployment.ledger.etcd, rig.keys).list() == []


async def test_a_quarantine_ends_by_itself(rig: Rig) -> None:
    etcd = rig.deployment.ledger.etcd
    quarantine = Quarantine(etcd, rig.keys)
    now = datetime.now(UTC)
    await quarantine.put(quarantined("short", "crashed", "s-1", now=now, ttl_s=1))
    await quarantine.put(quarantined("for-ever", "said so", "ann", now=now))
    async with asyncio.timeout(30):
        while (await etcd.get(rig.keys.quarantine("short")))[1] is not None:
            await asyncio.sleep(0.05)
    assert [record.package for record in await quarantine.list()] == ["for-ever"]
    await quarantine.put(quarantined("over", "crashed", "s-1", now=datetime(2020, 1, 1, tzinfo=UTC), ttl_s=1))
    assert (await etcd.get(rig.keys.quarantine("over")))[1] is None
