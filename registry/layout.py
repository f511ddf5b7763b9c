"""Where everything lies in object storage. Pure: builds and takes apart paths, does no IO.

    artifacts/sha256/<first 2 of digest>/<digest>              the bytes of a model, named by their content
    tenants/<tenant>/models/<model>/versions/<version>.json    Manifest
    tenants/<tenant>/models/<model>/aliases/<revision>.json    AliasRecord, revision as 20 digits

Invariant: every object is created once and never changed. The alias record with the greatest revision holds; creating
the next revision is the compare-and-swap, so that a plain "create if absent" is all that a store must offer. Twenty
digits keep the order of the names equal to the order of the numbers.
"""

from __future__ import annotations

import re

from registry.errors import InvalidRequestError
from registry.model import ModelRef, check_name

TENANTS = "tenants"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_JSON = ".json"


def artifact_path(digest: str) -> str:
    """The path of the artifact with this lower-case sha256."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(f"{digest[:80]!r} is not a lower-case sha256")
    return f"artifacts/sha256/{digest[:2]}/{digest}"


def models_folder(tenant: str) -> str:
    """The folder that has one folder for each model of a tenant."""
    return f"{TENANTS}/{check_name('tenant', tenant)}/models"


def versions_folder(ref: ModelRef) -> str:
    """The folder of a model's manifests."""
    return f"{models_folder(ref.tenant)}/{check_name('model', ref.model)}/versions"


def aliases_folder(ref: ModelRef) -> str:
    """The folder of a model's alias records."""
    return f"{models_folder(ref.tenant)}/{check_name('model', ref.model)}/aliases"


def manifest_path(ref: ModelRef, version: str) -> str:
    """The path of one version's manifest."""
    return f"{versions_folder(ref)}/{check_name('version', version)}{_JSON}"


def alias_record_path(ref: ModelRef, revision: int) -> str:
    """The path of one alias record; revisions count from 1."""
    return f"{aliases_folder(ref)}/{revision:020d}{_JSON}"


def version_of(name: str) -> str | None:
    """The version that the name of a manifest stands for, or None for a foreign name."""
    return name.removesuffix(_JSON) if name.endswith(_JSON) else None


def revision_of(name: str) -> int | None:
    """The revision that the name of an alias record stands for, or None for a foreign name."""
    digits = name.removesuffix(_JSON)
    return int(digits) if name.endswith(_JSON) and len(digits) == 20 and digits.isdecimal() else None


def next_version(versions: list[str]) -> str:
    """The automatic name after these: one more than the greatest plain number, names of another form don't count."""
    numbers = [int(version) for version in versions if re.fullmatch(r"[1-9][0-9]{0,17}", version)]
    return str(max(numbers, default=0) + 1)


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key: digits compare as numbers, so that "10" comes after "9"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
