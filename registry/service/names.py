"""Resource names: text to references and back. Pure.

Contract: a name that isn't of the wanted form, or one of whose parts can't be a name, is an InvalidRequestError that
says which field it came in and which part is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

from registry.errors import InvalidRequestError
from registry.model import ModelRef, check_name

ALL = "-"
_SHOWN = 300


class VersionName(NamedTuple):
    """A version of a model."""

    ref: ModelRef
    version: str


def tenant_name(tenant: str) -> str:
    """The resource name of a tenant."""
    return f"tenants/{tenant}"


def model_name(ref: ModelRef) -> str:
    """The resource name of a model."""
    return f"tenants/{ref.tenant}/models/{ref.model}"


def version_name(ref: ModelRef, version: str) -> str:
    """The resource name of a version."""
    return f"{model_name(ref)}/versions/{version}"


def application_name(application: str) -> str:
    """The resource name of an application."""
    return f"applications/{application}"


def package_name(package: str) -> str:
    """The resource name of a quarantined package."""
    return f"quarantine/{package}"


def parse_tenant(field: str, name: str) -> str:
    """The tenant that `name`, which came in `field`, names."""
    return _parts(field, name, "tenants")[0]


def parse_model(field: str, name: str) -> ModelRef:
    """The model that `name` names."""
    return ModelRef(*_parts(field, name, "tenants", "models"))


def parse_version(field: str, name: str) -> VersionName:
    """The version that `name` names."""
    tenant, model, version = _parts(field, name, "tenants", "models", "versions")
    return VersionName(ModelRef(tenant, model), version)


def parse_application(field: str, name: str) -> str:
    """The application that `name` names."""
    return _parts(field, name, "applications")[0]


def parse_package(field: str, name: str) -> str:
    """The package that `name` names."""
    return _parts(field, name, "quarantine", what="package")[0]


def parse_tenants(field: str, name: str) -> str | None:
    """The tenant that `name` names, or None for "tenants/-", all of them."""
    return None if name == tenant_name(ALL) else parse_tenant(field, name)


def check_part(field: str, what: str, value: str) -> str:
    """A single name that came in `field`, such as an alias."""
    try:
        return check_name(what, value)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{field}: {error.message}") from error


def _parts(field: str, name: str, *collections: str, what: str = "") -> list[str]:
    singles = [what or collection.removesuffix("s") for collection in collections]
    pieces = name.split("/")
    if len(pieces) != 2 * len(collections) or tuple(pieces[::2]) != collections:
        form = "/".join(f"{plural}/{{{single}}}" for plural, single in zip(collections, singles, strict=True))
        shown = f"{name[:_SHOWN]!r} is not" if name else "is missing: it must be"
        raise InvalidRequestError(f"{field}: {shown} of the form {form}")
    return [check_part(field, single, piece) for single, piece in zip(singles, pieces[1::2], strict=True)]
