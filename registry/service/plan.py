"""What a publisher asks for, checked before the first byte of his file is taken.

Contract: what can't be is an InvalidRequestError that names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from registry.errors import InvalidRequestError
from registry.model import Runtime
from registry.offer import Facts
from registry.service.messages import check_request_id
from registry.service.names import check_part, parse_model
from registry.service.schemas import check_runtime, from_golden
from scoremesh.registry.v1 import registry_pb2 as pb

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSFORMS_LIMIT_BYTES = 3 << 20  # a message has 4 MiB
_FACTS_LIMIT_BYTES = 64 << 10
_NO_TRANSFORMS = msgspec.Raw(b"null")


class Plan:
    """See the module; the fields are those of `registry.publish.Publisher.publish`."""

    def __init__(self, spec: pb.PublishSpec) -> None:
        self.ref = parse_model("spec.parent", spec.parent)
        self.version: str | None = check_part("spec.version", "version", spec.version) if spec.version else None
        self.runtime: Runtime | None = check_runtime("spec.runtime", spec.runtime)
        self.aliases = tuple(dict.fromkeys(check_part("spec.aliases", "alias", alias) for alias in spec.aliases))
        if spec.application:
            check_part("spec.application", "application", spec.application)
        self.facts: Facts = from_spec(spec)
        self.request_id = check_request_id(spec.request_id)
        if not _SHA256.fullmatch(spec.sha256):
            raise InvalidRequestError("spec.sha256: the file's lower-case sha256 is missing")
        self.sha256 = spec.sha256


def from_spec(spec: pb.PublishSpec) -> Facts:
    """What a publisher says of a version besides the file."""
    _check_small(spec)
    return Facts(
        application=spec.application,
        labels=dict(spec.labels),
        training=dict(spec.training),
        transforms=_from_json(spec.transforms_json),
        signature=spec.signature,
        golden=from_golden(spec.golden) if spec.HasField("golden") else None,
        allow_breaking=spec.allow_breaking,
    )


def _from_json(text: str) -> msgspec.Raw:
    if not text:
        return _NO_TRANSFORMS
    if len(text) > _TRANSFORMS_LIMIT_BYTES:
        limit = _TRANSFORMS_LIMIT_BYTES
        raise InvalidRequestError(f"spec.transforms_json: it has {len(text)} characters, at most {limit} are accepted")
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError("transforms_json is not JSON") from error
    return msgspec.Raw(text.encode())


def _check_small(spec: pb.PublishSpec) -> None:
    """Lists show these of each version, so they are small together; the largest one is named."""
    sizes = {
        "labels": _bytes_of(spec.labels),
        "training": _bytes_of(spec.training),
        "signature": len(spec.signature.encode()),
    }
    if sum(sizes.values()) > _FACTS_LIMIT_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise InvalidRequestError(
            f"spec.{largest}: it has {sizes[largest]} bytes; {', '.join(sizes)} may have {_FACTS_LIMIT_BYTES} together"
        )


def _bytes_of(facts: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in facts.items())
