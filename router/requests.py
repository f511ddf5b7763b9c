"""What a router reads of requests, and what it refuses unread. Pure."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from registry.errors import InvalidRequestError
from registry.model import check_name
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch, ScoreRequestHead

MAX_BATCH_ITEMS = 1024
_MAX_NAME = 128


def parse_head(payload: bytes) -> tuple[str, str]:
    """Tenant and model of a request. Raises InvalidRequestError."""
    try:
        head = ScoreRequestHead.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError("the bytes are not a ScoreRequest") from error
    tenant, model = head.tenant, head.model
    if not tenant or not model:
        raise InvalidRequestError("tenant is missing" if not tenant else "model is missing")
    if len(tenant) > _MAX_NAME or len(model) > _MAX_NAME:  # placements are remembered by name
        check_name("tenant", tenant)
        check_name("model", model)
    return tenant, model


def parse_batch(payload: bytes) -> RawBatch:
    """The items of a batch, unread. Raises InvalidRequestError."""
    try:
        batch = RawBatch.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError("the bytes are not a batch of ScoreRequests") from error
    if not 1 <= len(batch.items) <= MAX_BATCH_ITEMS:
        raise InvalidRequestError(f"a batch has 1 to {MAX_BATCH_ITEMS} items, not {len(batch.items)}")
    if batch.timeout_ms and len(batch.timeout_ms) != len(batch.items):
        raise InvalidRequestError(f"timeout_ms has {len(batch.timeout_ms)} entries for {len(batch.items)} items")
    return batch
