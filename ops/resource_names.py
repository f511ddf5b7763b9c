"""What a person types for a resource, and the resource names of the registry: "acme/churn@3" is
"tenants/acme/models/churn/versions/3". Pure.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import typer

from ops.connection import parse_ref
from registry.errors import InvalidRequestError
from registry.model import ModelRef, check_name


class VersionRef(NamedTuple):
    """A version of a model; `version` is empty where the model itself is meant."""

    ref: ModelRef
    version: str

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"{model_name(self.ref)}/versions/{self.version}" if self.version else model_name(self.ref)

    def __str__(self) -> str:
        return f"{self.ref}@{self.version}" if self.version else str(self.ref)


def model_name(ref: ModelRef) -> str:
    """The resource name of a model."""
    return f"tenants/{ref.tenant}/models/{ref.model}"


def typed_ref(name: str) -> str:
    """What a person types for the resource name of a model."""
    _, tenant, _, model = name.split("/")
    return f"{tenant}/{model}"


def last_part(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def parse_version_ref(text: str) -> VersionRef:
    """What "tenant/model@version" or "tenant/model" names; for typer."""
    model, at, version = text.partition("@")
    if at and not version:
        raise typer.BadParameter("write TENANT/MODEL@VERSION")
    try:
        return VersionRef(parse_ref(model), check_name("version", version) if at else "")
    except InvalidRequestError as error:
        raise typer.BadParameter(error.message) from error


def parse_pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Options of the form "name=value" as a dictionary."""
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"write {option} NAME=VALUE")
        pairs[name] = value
    return pairs


VersionArgument = Annotated[
    VersionRef, typer.Argument(parser=parse_version_ref, metavar="TENANT/MODEL@VERSION", help="The version.")
]
