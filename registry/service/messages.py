"""Records to protos and back. Pure.

Contract: what comes from a caller is checked here as far as one message can be; what doesn't fit together is an
InvalidRequestError that names the field. Names are given as whole resource names.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry.errors import InvalidRequestError
from registry.manifest import AliasRecord, Manifest, Registration, RolloutSpec, VersionState
from registry.model import (
    DEFAULT_POOL,
    ApplicationRecord,
    ModelRef,
    ModelSchema,
    QuarantineRecord,
    TenantRecord,
    check_name,
)
from registry.service.names import (
    application_name,
    check_part,
    model_name,
    package_name,
    parse_application,
    parse_model,
    parse_tenant,
    tenant_name,
    version_name,
)
from registry.service.schemas import (
    SCHEMA_LIMIT_BYTES,
    check_amounts,
    from_schema,
    schema_bytes,
    to_golden,
    to_schema,
)
from scoremesh.registry.v1 import registry_pb2 as pb

_STATES = {
    VersionState.REGISTERED: pb.VERSION_STATE_REGISTERED,
    VersionState.VALIDATED: pb.VERSION_STATE_VALIDATED,
    VersionState.LIVE: pb.VERSION_STATE_LIVE,
    VersionState.RETIRED: pb.VERSION_STATE_RETIRED,
}
# With more than these, a guard would watch harm rather than end it.
_MIN_REQUESTS_LIMIT = 1_000_000


def to_version(manifest: Manifest, state: VersionState, schema: ModelSchema | None = None) -> pb.Version:
    """A version; with `schema` whole, without it as lists show it."""
    version = pb.Version(
        name=version_name(manifest.ref, manifest.version),
        state=_STATES[state],
        application=manifest.application,
        runtime=manifest.runtime.value,
        runtime_version=manifest.runtime_version,
        source_sha256=manifest.source,
        source_bytes=manifest.source_bytes,
        artifact_sha256=manifest.artifact,
        artifact_bytes=manifest.artifact_bytes,
        package=manifest.to_version().package,
        resident_bytes=manifest.resident_bytes,
        predict_us=manifest.predict_us,
        labels=manifest.labels,
        training=manifest.training,
        signature=manifest.signature,
        create_time=manifest.created_at,
        published_by=manifest.published_by,
    )
    if schema is not None:
        version.schema.CopyFrom(to_schema(schema))
        if manifest.transforms_digest:
            version.transforms_json = msgspec.json.format(bytes(manifest.transforms), indent=-1).decode()
        if manifest.golden is not None:
            version.golden.CopyFrom(to_golden(manifest.golden))
    return version


def to_registered(ref: ModelRef, record: Registration) -> pb.Version:
    """A version of which nothing is there but its number."""
    return pb.Version(
        name=version_name(ref, record.version),
        state=pb.VERSION_STATE_REGISTERED,
        source_sha256=record.source,
        create_time=record.created_at,
    )


def to_model(ref: ModelRef, record: AliasRecord, versions: Iterable[pb.Version] = ()) -> pb.Model:
    """A model; its etag is the record's revision."""
    return pb.Model(
        name=model_name(ref),
        application=record.application,
        aliases=record.aliases,
        rollouts=[to_rollout(alias, spec) for alias, spec in sorted(record.rollouts.items())],
        versions=versions,
        etag=to_etag(record.revision),
    )


def to_rollout(alias: str, spec: RolloutSpec) -> pb.Rollout:
    """A rollout, without what was seen of it."""
    return pb.Rollout(
        id=spec.id,
        alias=alias,
        canary=spec.canary,
        shadow=spec.shadow,
        percent=spec.percent,
        guarded=spec.guarded,
        max_error_ratio=spec.max_error_ratio,
        max_drift=spec.max_drift,
        min_requests=spec.min_requests,
        create_time=spec.created_at,
    )


def from_rollout(rollout: pb.Rollout, *, rollout_id: str, created_at: str) -> RolloutSpec:
    """What a caller wants to run; limits of 0 become the defaults."""
    _check_rollout(rollout)
    limits = {
        name: value for name in ("max_error_ratio", "max_drift", "min_requests") if (value := getattr(rollout, name))
    }
    return RolloutSpec(
        id=rollout_id,
        canary=rollout.canary,
        percent=rollout.percent,
        shadow=rollout.shadow,
        guarded=rollout.guarded,
        created_at=created_at,
        **limits,
    )


def _check_rollout(rollout: pb.Rollout) -> None:
    if not (rollout.canary or rollout.shadow):
        raise InvalidRequestError("rollout: a canary or a shadow is missing")
    if rollout.canary == rollout.shadow:
        raise InvalidRequestError("rollout: the canary can't be its own shadow")
    if rollout.canary and not 0 < rollout.percent <= 100:
        raise InvalidRequestError(f"rollout.percent: {rollout.percent:g} is not above 0 and at most 100")
    if rollout.percent and not rollout.canary:
        raise InvalidRequestError("rollout.percent: it belongs to a canary, and there is none")
    check_amounts("rollout", {"max_error_ratio": rollout.max_error_ratio, "max_drift": rollout.max_drift})
    if rollout.max_error_ratio > 1:
        raise InvalidRequestError(f"rollout.max_error_ratio: {rollout.max_error_ratio:g} is more than 1")
    if rollout.min_requests > _MIN_REQUESTS_LIMIT:
        raise InvalidRequestError(f"rollout.min_requests: {rollout.min_requests} is more than {_MIN_REQUESTS_LIMIT}")


def to_quarantined(record: QuarantineRecord) -> pb.QuarantinedPackage:
    """A package that no scorer may load."""
    known = record.tenant and record.model and record.version
    return pb.QuarantinedPackage(
        name=package_name(record.package),
        reason=record.reason,
        by=record.by,
        create_time=record.since,
        expire_time=record.until,
        version=version_name(ModelRef(record.tenant, record.model), record.version) if known else "",
    )


def to_tenant(record: TenantRecord) -> pb.Tenant:
    """A tenant's settings."""
    return pb.Tenant(
        name=tenant_name(record.tenant),
        shard_size=record.shard_size,
        requests_per_s=record.requests_per_s,
        concurrency=record.concurrency,
        guaranteed_bytes=record.guaranteed_bytes,
        max_bytes=record.max_bytes,
        premium=record.premium,
        dedicated_pool=record.dedicated_pool,
        hedge=record.hedge,
        create_time=record.created_at,
        etag=to_etag(record.revision),
        deleting=record.deleting,
    )


def from_tenant(tenant: pb.Tenant) -> TenantRecord:
    """The settings that a caller wants."""
    check_amounts("tenant", {"requests_per_s": tenant.requests_per_s})
    if tenant.max_bytes and tenant.guaranteed_bytes > tenant.max_bytes:
        raise InvalidRequestError("tenant.guaranteed_bytes: it is more than max_bytes")
    if tenant.dedicated_pool:
        check_name("tenant.dedicated_pool", tenant.dedicated_pool)
    if tenant.dedicated_pool == DEFAULT_POOL:
        raise InvalidRequestError(f"tenant.dedicated_pool: {DEFAULT_POOL!r} is everybody's")
    return TenantRecord(
        tenant=parse_tenant("tenant.name", tenant.name),
        shard_size=tenant.shard_size,
        requests_per_s=tenant.requests_per_s,
        concurrency=tenant.concurrency,
        guaranteed_bytes=tenant.guaranteed_bytes,
        max_bytes=tenant.max_bytes,
        premium=tenant.premium,
        dedicated_pool=tenant.dedicated_pool,
        hedge=tenant.hedge,
    )


def to_application(record: ApplicationRecord) -> pb.Application:
    """An application."""
    return pb.Application(
        name=application_name(record.application),
        pool=record.pool,
        contract=to_schema(record.contract) if record.contract is not None else None,
        shared_model=model_name(record.shared) if record.shared is not None else "",
        create_time=record.created_at,
        etag=to_etag(record.revision),
    )


def from_application(application: pb.Application) -> ApplicationRecord:
    """The application that a caller wants."""
    shared = application.shared_model
    return ApplicationRecord(
        application=parse_application("application.name", application.name),
        pool=check_part("application.pool", "pool", application.pool) if application.pool else "",
        contract=_from_contract(application.contract) if application.HasField("contract") else None,
        shared=parse_model("application.shared_model", shared) if shared else None,
    )


def _from_contract(contract: pb.Schema) -> ModelSchema:
    schema = from_schema(contract)
    nbytes = schema_bytes(schema)
    if nbytes > SCHEMA_LIMIT_BYTES:  # etcd takes 1.5 MB, and has the contract with the application
        raise InvalidRequestError(f"application.contract: {nbytes} bytes as JSON are more than {SCHEMA_LIMIT_BYTES}")
    return schema


def to_etag(revision: int) -> str:
    """The etag of a record; "" where there is none yet."""
    return str(revision) if revision else ""


def from_etag(etag: str) -> int:
    """The revision that a caller read; 0 for an empty etag."""
    if not etag:
        return 0
    if not (etag.isascii() and etag.isdecimal() and 0 < len(etag) <= 20 and int(etag)):
        raise InvalidRequestError("etag is none that was given out here")
    return int(etag)


def check_request_id(request_id: str) -> str:
    """Refuse one that is too long to be kept."""
    if len(request_id) > 128:
        raise InvalidRequestError("request_id is longer than 128 characters")
    return request_id
