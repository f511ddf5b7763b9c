"""The etcd key layout of one cluster, and the encoding of what is stored there. Pure.

    /scoremesh/<cluster>/members/<member id>        Member, under the member's lease
    /scoremesh/<cluster>/models/<tenant>/<model>    ModelRecord
    /scoremesh/<cluster>/tenants/<tenant>           the tenant's settings
    /scoremesh/<cluster>/quarantine/<digest>        an artifact that no scorer may load

Values are JSON, so that an operator can read them with any etcd client.
"""

from __future__ import annotations

import msgspec

from registry.model import Member, ModelRecord, ModelRef, check_name

_member_decoder = msgspec.json.Decoder(Member)
_record_decoder = msgspec.json.Decoder(ModelRecord)


class Keys:
    """The keys of one cluster. Raises InvalidRequestError where a name can't be part of a key."""

    def __init__(self, cluster: str) -> None:
        root = f"/scoremesh/{check_name('cluster', cluster)}"
        self.members_prefix = f"{root}/members/".encode()
        self.models_prefix = f"{root}/models/".encode()
        self.tenants_prefix = f"{root}/tenants/".encode()
        self.quarantine_prefix = f"{root}/quarantine/".encode()

    def member(self, member_id: str) -> bytes:
        """The key of one member."""
        return self.members_prefix + check_name("member id", member_id).encode()

    def model(self, ref: ModelRef) -> bytes:
        """The key of one model."""
        return self.models_prefix + f"{check_name('tenant', ref.tenant)}/{check_name('model', ref.model)}".encode()

    def model_ref(self, key: bytes) -> ModelRef | None:
        """The model that a key names, or None when it is no model's key."""
        tenant, slash, model = key.removeprefix(self.models_prefix).decode().partition("/")
        return ModelRef(tenant, model) if key.startswith(self.models_prefix) and slash else None


def encode(record: Member | ModelRecord) -> bytes:
    """JSON of a record."""
    return msgspec.json.encode(record)


def decode_member(value: bytes) -> Member:
    """Parse a member. Raises msgspec.DecodeError where somebody else wrote to the key."""
    return _member_decoder.decode(value)


def decode_model(value: bytes) -> ModelRecord:
    """Parse a model record. Raises msgspec.DecodeError where somebody else wrote to the key."""
    return _record_decoder.decode(value)
