"""Versions in the messages of ResidencyService, and back."""

from __future__ import annotations

from registry.errors import InvalidRequestError, ModelUnusableError
from registry.model import ModelVersion, Runtime
from scoremesh.scorer.v1 import scorer_pb2 as pb


def loadable(version: ModelVersion, model: str = "") -> pb.LoadableVersion:
    """A version as scorers are told of it. `model`: its model's name, where it's known."""
    return pb.LoadableVersion(
        version=version.version,
        package=version.package,
        tenant=version.tenant,
        artifact=version.artifact,
        schema=version.schema,
        runtime=version.runtime.value,
        artifact_bytes=version.artifact_bytes,
        resident_bytes=version.resident_bytes,
        transforms=version.transforms,
        model=model,
    )


def version_of(told: pb.LoadableVersion) -> ModelVersion:
    """The version that a message tells of.

    Raises:
        ModelUnusableError: this process knows no such engine.
        InvalidRequestError: it names nothing to load.
    """
    try:
        runtime = Runtime(told.runtime)
    except ValueError as error:
        raise ModelUnusableError(f"this scorer has no engine for {told.runtime[:140]!r}") from error
    if not told.package:
        raise InvalidRequestError("package is missing")
    return ModelVersion(
        version=told.version,
        package=told.package,
        tenant=told.tenant,
        artifact=told.artifact,
        schema=told.schema,
        runtime=runtime,
        artifact_bytes=told.artifact_bytes,
        resident_bytes=told.resident_bytes,
        transforms=told.transforms,
    )
