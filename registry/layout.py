"""Where everything lies in object storage. Pure: builds and takes apart paths, does no IO.

    applications/<application>/<revision>.json                      ApplicationRecord
    tenants/<tenant>/settings/<revision>.json                       TenantRecord
    tenants/<tenant>/artifacts/<first 2 of digest>/<digest>         the bytes of a model, its transforms' JSON, or
                                                                    that of one of their tables, by their content
    tenants/<tenant>/schemas/<digest>.json                          ModelSchema, named by its content
    tenants/<tenant>/models/<model>/versions/<version>.json         Manifest
    tenants/<tenant>/models/<model>/registered/<version>.json       Registration
    tenants/<tenant>/models/<model>/aliases/<revision>.json         AliasRecord
    bulk/<id>/<revision>.json                                       what one bulk rollout is to do

All that is a tenant's lies under its own folder, so that deleting the folder deletes the tenant.
Invariant: every object is created once and never changed. Of the records with a revision (20 digits) the greatest one
holds; creating the next revision is the compare-and-swap, so that a plain "create if absent" is all that a store must
offer. Twenty digits keep the order of the names equal to the order of the numbers.
"""

from __future__ import annotations

import re

from registry.errors import InvalidRequestError
from registry.model import ModelRef, check_name

TENANTS = "tenants"
BULK = "bulk"
APPLICATIONS = "applications"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_JSON = ".json"


def tenant_folder(tenant: str) -> str:
    """The folder that has all of a tenant."""
    return f"{TENANTS}/{check_name('tenant', tenant)}"


def artifacts_folder(tenant: str) -> str:
    """The folder of a tenant's artifacts."""
    return f"{tenant_folder(tenant)}/artifacts"


def schemas_folder(tenant: str) -> str:
    """The folder of a tenant's schemas."""
    return f"{tenant_folder(tenant)}/schemas"


def artifact_path(tenant: str, digest: str) -> str:
    """The path of a tenant's artifact, transforms or table with this lower-case sha256."""
    return f"{artifacts_folder(tenant)}/{_check_digest(digest)[:2]}/{digest}"


def schema_path(tenant: str, digest: str) -> str:
    """The path of a tenant's schema whose JSON has this lower-case sha256."""
    return f"{schemas_folder(tenant)}/{_check_digest(digest)}{_JSON}"


def settings_folder(tenant: str) -> str:
    """The folder of a tenant's records."""
    return f"{tenant_folder(tenant)}/settings"


def application_folder(application: str) -> str:
    """The folder of an application's records."""
    return f"{APPLICATIONS}/{check_name('application', application)}"


def models_folder(tenant: str) -> str:
    """The folder that has one folder for each model of a tenant."""
    return f"{tenant_folder(tenant)}/models"


def model_folder(ref: ModelRef) -> str:
    """The folder that has all of a model."""
    return f"{models_folder(ref.tenant)}/{check_name('model', ref.model)}"


def versions_folder(ref: ModelRef) -> str:
    """The folder of a model's manifests."""
    return f"{model_folder(ref)}/versions"


def aliases_folder(ref: ModelRef) -> str:
    """The folder of a model's alias records."""
    return f"{model_folder(ref)}/aliases"


def registered_folder(ref: ModelRef) -> str:
    """The folder of the numbers that publishers have taken."""
    return f"{model_folder(ref)}/registered"


def registration_path(ref: ModelRef, version: str) -> str:
    """The path of one taken number."""
    return f"{registered_folder(ref)}/{check_name('version', version)}{_JSON}"


def manifest_path(ref: ModelRef, version: str) -> str:
    """The path of one version's manifest."""
    return f"{versions_folder(ref)}/{check_name('version', version)}{_JSON}"


def record_path(folder: str, revision: int) -> str:
    """The path of one record of a folder of revisions; revisions count from 1."""
    return f"{folder}/{revision:020d}{_JSON}"


def bulk_plan_path(bulk_id: str) -> str:
    """The path of a bulk rollout's plan."""
    return f"{BULK}/{check_name('bulk rollout', bulk_id)}/plan{_JSON}"


def version_of(name: str) -> str | None:
    """The version that the name of a manifest stands for, or None for a foreign name."""
    return name.removesuffix(_JSON) if name.endswith(_JSON) else None


def revision_of(name: str) -> int | None:
    """The revision that the name of a record stands for, or None for a foreign name."""
    digits = name.removesuffix(_JSON)
    return int(digits) if name.endswith(_JSON) and len(digits) == 20 and digits.isdecimal() else None


def next_version(versions: list[str]) -> str:
    """The automatic name after these: one more than the greatest plain number, names of another form don't count."""
    numbers = [int(version) for version in versions if re.fullmatch(r"[1-9][0-9]{0,17}", version)]
    return str(max(numbers, default=0) + 1)


def _check_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(f"{digest[:80]!r} is not a lower-case sha256")
    return digest


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key: digits compare as numbers, so that "10" comes after "9". Of names that differ in zeros alone, such as
    "1" and "01", each has its own.
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return *((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (-1, 0, version)
