from __future__ import annotations

import msgspec
import pytest

from registry.errors import ConflictError, ContractBrokenError, NotFoundError, TenantExistsError
from registry.model import ApplicationRecord, ModelRef, ModelSchema, OutputKind, OutputSchema, TenantRecord
from registry.settings import create_tenant, delete_application, set_application, update_tenant

replace = msgspec.structs.replace
NO_TENANT = TenantRecord(tenant="acme")
TENANT = TenantRecord(tenant="acme", revision=3, concurrency=5, created_at="then", nonce="n")
NO_APPLICATION = ApplicationRecord(application="churn")
CONTRACT = ModelSchema(("a", "b"), (OutputSchema("value", OutputKind.REGRESSION),))
APPLICATION = ApplicationRecord(application="churn", revision=3, contract=CONTRACT, created_at="then", nonce="n")


def wanted(contract: ModelSchema | None = CONTRACT, **more: object) -> ApplicationRecord:
    return replace(ApplicationRecord(application="churn", contract=contract), **more)


def test_a_tenant_is_created_once() -> None:
    assert create_tenant(replace(NO_TENANT, concurrency=5))(NO_TENANT).concurrency == 5
    with pytest.raises(TenantExistsError, match="tenant acme has settings already"):
        create_tenant(NO_TENANT)(TENANT)


def test_all_settings_are_replaced_and_nothing_else() -> None:
    changed = update_tenant(replace(NO_TENANT, shard_size=2), 3)(TENANT)
    assert changed == replace(TENANT, shard_size=2, concurrency=0)
    assert update_tenant(replace(NO_TENANT, concurrency=5))(TENANT) == TENANT
    with pytest.raises(ConflictError, match="its revision is 3, not 2"):
        update_tenant(NO_TENANT, 2)(TENANT)


@pytest.mark.parametrize("revision", [0, 2, 3])
def test_setting_a_tenant_to_what_it_is_can_be_repeated(revision: int) -> None:
    assert update_tenant(replace(NO_TENANT, concurrency=5), revision)(TENANT) is TENANT
    known = replace(TENANT, request_id="r")
    assert update_tenant(replace(NO_TENANT, concurrency=5), revision)(known) is known


def test_a_repeated_request_changes_a_tenant_once() -> None:
    asked = replace(NO_TENANT, shard_size=2, request_id="r")
    created = replace(create_tenant(asked)(NO_TENANT), revision=1, created_at="then", nonce="n")
    assert created.request_id == "r"
    assert create_tenant(asked)(created) is created
    asked = replace(NO_TENANT, shard_size=4, request_id="s")
    updated = replace(update_tenant(asked, 1)(created), revision=2)
    assert (updated.shard_size, updated.request_id) == (4, "s")
    assert update_tenant(asked, 1)(updated) is updated
    with pytest.raises(TenantExistsError):
        create_tenant(replace(asked, request_id="r"))(updated)


def test_a_request_that_finds_all_done_is_remembered() -> None:
    found = update_tenant(replace(NO_TENANT, concurrency=5, request_id="r"))(TENANT)
    assert found == replace(TENANT, request_id="r")
    assert update_tenant(replace(NO_TENANT, concurrency=6))(found).request_id == ""


def test_a_request_id_is_good_for_one_request() -> None:
    known = replace(TENANT, request_id="r")
    for change in (create_tenant, update_tenant):
        with pytest.raises(ConflictError, match="request r was carried out already, and was another one"):
            change(replace(NO_TENANT, concurrency=6, request_id="r"))(known)
    known_application = replace(APPLICATION, request_id="r")
    with pytest.raises(ConflictError, match="request r"):
        set_application(wanted(pool="fast", request_id="r"), 3)(known_application)
    with pytest.raises(ConflictError, match="request r"):
        delete_application(3, "r")(known_application)
    with pytest.raises(ConflictError, match="request r"):
        set_application(wanted(request_id="r"))(delete_application(3, "r")(APPLICATION))


def test_a_repeated_request_changes_an_application_once() -> None:
    asked = wanted(pool="fast", request_id="r")
    changed = replace(set_application(asked, 3)(APPLICATION), revision=4)
    assert (changed.pool, changed.request_id) == ("fast", "r")
    assert set_application(asked, 3)(changed) is changed
    deleted = replace(delete_application(4, "s")(changed), revision=5)
    assert delete_application(4, "s")(deleted) is deleted
    assert delete_application(0, "s")(deleted) is deleted
    with pytest.raises(NotFoundError):
        delete_application(0, "t")(deleted)


def test_an_application_is_deleted_from_one_revision_on_as_often_as_one_likes() -> None:
    deleted = replace(delete_application(3)(APPLICATION), revision=4)
    assert delete_application(3)(deleted) is deleted
    for revision in (0, 2, 4):
        with pytest.raises(NotFoundError):
            delete_application(revision)(deleted)


def test_a_tenant_that_goes_is_left_alone() -> None:
    going = replace(TENANT, deleting=True)
    for change in (create_tenant(NO_TENANT), update_tenant(NO_TENANT)):
        with pytest.raises(ConflictError, match="is being deleted"):
            change(going)


def test_an_application_is_made_and_replaced_on_purpose() -> None:
    assert set_application(wanted())(NO_APPLICATION) == wanted()
    changed = set_application(wanted(pool="fast"), 3)(APPLICATION)
    assert changed == replace(APPLICATION, pool="fast")
    with pytest.raises(ConflictError, match="give its etag"):
        set_application(wanted(pool="fast"))(APPLICATION)
    with pytest.raises(ConflictError, match="its revision is 3, not 2"):
        set_application(wanted(pool="fast"), 2)(APPLICATION)
    with pytest.raises(ConflictError, match="its revision is none, not 2"):
        set_application(wanted(), 2)(NO_APPLICATION)


@pytest.mark.parametrize("revision", [0, 2, 3])
def test_setting_an_application_to_what_it_is_can_be_repeated(revision: int) -> None:
    assert set_application(wanted(), revision)(APPLICATION) is APPLICATION


def test_a_contract_is_kept_to_or_broken_on_purpose() -> None:
    narrower = ModelSchema(("a",), CONTRACT.outputs)
    with pytest.raises(ContractBrokenError, match=r"schema breaks the contract of application churn: .*\(b\)"):
        set_application(wanted(narrower), 3)(APPLICATION)
    with pytest.raises(ContractBrokenError, match="contract: was there, is missing"):
        set_application(wanted(None), 3)(APPLICATION)
    for contract in (narrower, None):
        assert set_application(wanted(contract), 3, allow_breaking=True)(APPLICATION).contract == contract
    free = replace(APPLICATION, contract=None)
    assert set_application(wanted(narrower), 3)(free).contract == narrower


def test_a_deleted_application_is_none() -> None:
    deleted = delete_application(3)(APPLICATION)
    assert deleted == replace(APPLICATION, deleted=True)
    for gone in (deleted, NO_APPLICATION):
        with pytest.raises(NotFoundError, match="no application 'churn'"):
            delete_application()(gone)
    with pytest.raises(ConflictError, match="its revision is 3, not 2"):
        delete_application(2)(APPLICATION)


def test_a_new_application_under_an_old_name_begins_anew() -> None:
    deleted = replace(APPLICATION, deleted=True)
    shared = ModelRef("acme", "churn")
    again = set_application(wanted(None, shared=shared))(deleted)
    assert (again.deleted, again.created_at, again.contract, again.shared) == (False, "", None, shared)
    with pytest.raises(ConflictError, match="its revision is none, not 3"):
        set_application(wanted(), 3)(deleted)
    assert set_application(wanted())(deleted) == replace(APPLICATION, created_at="")
