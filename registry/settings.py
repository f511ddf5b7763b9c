"""What each change makes of a tenant's or an application's record. Pure: for `Ledger.change_tenant` and
`Ledger.change_application`.

Contract: each function gives a change, which takes the record that holds (an empty one of revision 0 where there is
none) and returns it altered, or an equal one where nothing is to be done, or refuses. `revision` is the one that the
caller read, 0 for any; where nothing is to be done it may be any. A record remembers the request that made it: the same
one again is no change, and another one under its id is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from registry.contract import check
from registry.errors import ConflictError, NotFoundError, TenantExistsError
from registry.model import ApplicationRecord, TenantRecord

TenantChange = Callable[[TenantRecord], TenantRecord]
ApplicationChange = Callable[[ApplicationRecord], ApplicationRecord]
S = TypeVar("S", TenantRecord, ApplicationRecord)


def create_tenant(wanted: TenantRecord) -> TenantChange:
    """Give a tenant its first settings. Refused with TenantExistsError where it has some."""

    def change(record: TenantRecord) -> TenantRecord:
        _check_stays(record)
        if record.revision and not _is_repeated(record, _in_place_of(record, wanted)):
            raise TenantExistsError(f"tenant {record.tenant} has settings already")
        return record if record.revision else wanted

    return change


def update_tenant(wanted: TenantRecord, revision: int = 0) -> TenantChange:
    """Replace all settings of a tenant. Setting what is there already is no change."""

    def change(record: TenantRecord) -> TenantRecord:
        _check_stays(record)
        merged = _in_place_of(record, wanted)
        if record.revision and _is_done(record, merged):
            return record
        _check_revision(f"tenant {record.tenant}", record.revision, revision)
        return merged

    return change


def set_application(wanted: ApplicationRecord, revision: int = 0, *, allow_breaking: bool = False) -> ApplicationChange:
    """Make an application, or replace the one of this revision, whose contract is kept to or loosened on purpose.
    Setting what is there already is no change, whatever the revision, so that it can be repeated.
    """

    def change(record: ApplicationRecord) -> ApplicationRecord:
        held = not record.deleted and record.revision
        merged = _in_place_of(record, wanted)
        if record.revision and _is_done(record, merged):
            return record
        if not held:  # A new one under an old name begins anew: `created_at` is its own.
            merged = msgspec.structs.replace(merged, created_at="")
        _check_replaced(record, revision)
        if held and not allow_breaking:
            _check_contract(record, wanted)
        return merged

    return change


def delete_application(revision: int = 0, request_id: str = "") -> ApplicationChange:
    """Mark an application as deleted. Where that was done already, by this request or from this revision on, it is no
    change.
    """

    def change(record: ApplicationRecord) -> ApplicationRecord:
        deleted = msgspec.structs.replace(record, deleted=True, request_id=request_id)
        if _is_repeated(record, deleted) or (record.deleted and record.revision - 1 == revision > 0):
            return record
        if record.deleted or not record.revision:
            raise NotFoundError(f"there is no application {record.application!r}")
        _check_revision(f"application {record.application}", record.revision, revision)
        return deleted

    return change


def _in_place_of(record: S, wanted: S) -> S:
    return msgspec.structs.replace(wanted, revision=record.revision, created_at=record.created_at, nonce=record.nonce)


def _is_repeated(record: S, made: S) -> bool:
    """Whether the record was made by the request that would make this of it. Raises ConflictError where that was
    another one, under the same id.
    """
    if not made.request_id or made.request_id != record.request_id:
        return False
    if made != record:
        raise ConflictError(f"request {made.request_id} was carried out already, and was another one")
    return True


def _is_done(record: S, made: S) -> bool:
    """Whether nothing is left to do. What a request did that names itself is written even then, to be known later."""
    held = record if made.request_id else msgspec.structs.replace(record, request_id="")
    return _is_repeated(record, made) or made == held


def _check_stays(record: TenantRecord) -> None:
    if record.deleting:
        raise ConflictError(f"tenant {record.tenant} is being deleted")


def _check_revision(what: str, actual: int, wanted: int) -> None:
    if wanted not in (0, actual):
        raise ConflictError(f"{what} changed: its revision is {actual}, not {wanted}")


def _check_replaced(record: ApplicationRecord, revision: int) -> None:
    there = record.revision if not record.deleted else 0
    if there and not revision:
        raise ConflictError(f"application {record.application} is there already: give its etag to replace it")
    if revision != there:
        raise ConflictError(
            f"application {record.application} changed: its revision is {there or 'none'}, not {revision}"
        )


def _check_contract(record: ApplicationRecord, wanted: ApplicationRecord) -> None:
    if record.contract is None:
        return
    check(f"application {record.application}", record.contract, wanted.contract)
