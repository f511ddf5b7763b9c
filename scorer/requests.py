"""Reads requests from bytes, and checks what needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from registry.errors import InvalidRequestError
from scoremesh.forwarding.v1.forwarding_pb2 import RawBatch
from scoremesh.scoring.v1.scoring_pb2 import ScoreBatchRequest, ScoreRequest, StreamScoreBatchRequest

_MAX_REQUEST_ID_BYTES = 128
_MAX_ENTITY_KEY_BYTES = 128
M = TypeVar("M", bound=Message)


def parse(kind: type[M], payload: bytes) -> M:
    """A message from its bytes. Raises InvalidRequestError."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequestError(f"the bytes are not a {kind.DESCRIPTOR.name}") from error


def parse_batch(
    kind: type[ScoreBatchRequest | StreamScoreBatchRequest], payload: bytes
) -> tuple[Sequence[ScoreRequest | None], Sequence[int]]:
    """The items of a batch and their times; None for an item that can't be read, so that it fails alone. A router puts
    requests of many callers into one batch, and reads no more of each than where it goes.
    """
    try:
        batch = kind.FromString(payload)
    except DecodeError:
        raw = parse(RawBatch, payload)
        return [_parse_item(item) for item in raw.items], raw.timeout_ms
    return batch.items, batch.timeout_ms if isinstance(batch, StreamScoreBatchRequest) else ()


def _parse_item(payload: bytes) -> ScoreRequest | None:
    try:
        return ScoreRequest.FromString(payload)
    except DecodeError:
        return None


def readable(request: ScoreRequest | None) -> ScoreRequest:
    """The request, checked as far as that needs no model. Raises InvalidRequestError."""
    if request is None:
        raise InvalidRequestError("the bytes are not a ScoreRequest")
    if request.request_id and len(request.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(f"request_id is over {_MAX_REQUEST_ID_BYTES} bytes")
    if request.entity_key and len(request.entity_key.encode()) > _MAX_ENTITY_KEY_BYTES:
        raise InvalidRequestError(f"entity_key is over {_MAX_ENTITY_KEY_BYTES} bytes")
    return request
