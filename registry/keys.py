"""The etcd key layout of one cluster, and the encoding of what is stored there. Pure.

    /scoremesh/<cluster>/members/<member id>        Member, under the member's lease
    /scoremesh/<cluster>/routers/<router id>        Member, under the router's lease
    /scoremesh/<cluster>/models/<tenant>/<model>    ModelRecord
    /scoremesh/<cluster>/tenants/<tenant>           TenantRecord
    /scoremesh/<cluster>/applications/<application> ApplicationRecord
    /scoremesh/<cluster>/quarantine/<package>       QuarantineRecord
    /scoremesh/<cluster>/suspects/<package>/<crash> Suspicion, under a lease of ten minutes
    /scoremesh/<cluster>/placement                  PlacementRecord

Values are JSON, so that an operator can read them with any etcd client.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import msgspec

from registry.model import Member, ModelRecord, ModelRef, check_name

_Record = TypeVar("_Record", bound=msgspec.Struct)
_member_decoder = msgspec.json.Decoder(Member)
_record_decoder = msgspec.json.Decoder(ModelRecord)


class Keys:
    """The keys of one cluster. Raises InvalidRequestError where a name can't be part of a key."""

    def __init__(self, cluster: str) -> None:
        root = f"/scoremesh/{check_name('cluster', cluster)}"
        self.members_prefix = f"{root}/members/".encode()
        self._routers_prefix = f"{root}/routers/".encode()
        self.models_prefix = f"{root}/models/".encode()
        self.tenants_prefix = f"{root}/tenants/".encode()
        self.applications_prefix = f"{root}/applications/".encode()
        self.quarantine_prefix = f"{root}/quarantine/".encode()
        self.suspects_prefix = f"{root}/suspects/".encode()
        self.placement = f"{root}/placement".encode()

    def member(self, member_id: str) -> bytes:
        """The key of one member."""
        return self.members_prefix + check_name("member id", member_id).encode()

    def of_routers(self) -> Keys:
        """The same cluster's keys for whoever announces or follows routers: they are members of their own prefix."""
        keys = copy.copy(self)
        keys.members_prefix = self._routers_prefix
        return keys

    def model(self, ref: ModelRef) -> bytes:
        """The key of one model."""
        return self.models_prefix + f"{check_name('tenant', ref.tenant)}/{check_name('model', ref.model)}".encode()

    def tenant_models_prefix(self, tenant: str) -> bytes:
        """What the keys of all of a tenant's models begin with."""
        return self.models_prefix + f"{check_name('tenant', tenant)}/".encode()

    def tenant(self, tenant: str) -> bytes:
        """The key of one tenant."""
        return self.tenants_prefix + check_name("tenant", tenant).encode()

    def application(self, application: str) -> bytes:
        """The key of one application."""
        return self.applications_prefix + check_name("application", application).encode()

    def quarantine(self, package: str) -> bytes:
        """The key of one quarantined package."""
        return self.quarantine_prefix + check_name("package", package).encode()

    def package_suspects_prefix(self, package: str) -> bytes:
        """What the keys of all crashes that a package is suspected of begin with."""
        return self.suspects_prefix + f"{check_name('package', package)}/".encode()

    def suspect(self, package: str, crash: str) -> bytes:
        """The key of a package that was in flight at a crash."""
        return self.package_suspects_prefix(package) + check_name("crash", crash).encode()

    def model_ref(self, key: bytes) -> ModelRef | None:
        """The model that a key names, or None when it is no model's key."""
        tenant, slash, model = key.removeprefix(self.models_prefix).decode(errors="replace").partition("/")
        return ModelRef(tenant, model) if key.startswith(self.models_prefix) and slash else None


def encode(record: msgspec.Struct) -> bytes:
    """JSON of a record."""
    return msgspec.json.encode(record)


def decode(kind: type[_Record], value: bytes) -> _Record:
    """Parse a record of this kind. Raises msgspec.DecodeError where somebody else wrote to the key."""
    return msgspec.json.decode(value, type=kind)


def decode_member(value: bytes) -> Member:
    """Parse a member. Raises msgspec.DecodeError where somebody else wrote to the key."""
    return _member_decoder.decode(value)


def decode_model(value: bytes) -> ModelRecord:
    """Parse a model record. Raises msgspec.DecodeError where somebody else wrote to the key."""
    return _record_decoder.decode(value)
