"""Header fields of the caller's own that go with each call. Pure.

Contract: a value may have `{tenant}` and `{model}`, which become those of the request: some servers are told by a
header which model is meant (Ray Serve's `multiplexed_model_id`, ModelMesh's `mm-vmodel-id`). Fields that gRPC has for
itself are refused. Where no value names the model, all calls share the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ops.load.spec import LoadModel
from registry.errors import InvalidRequestError
from registry.http2.frames import literal

_NAME = re.compile(r"[a-z0-9_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_TAKEN = re.compile(r"grpc-.*|te|content-type|host|connection|user-agent|.*-bin")
_MOST_BYTES = 4096
_ENCODED = 10_000  # models whose fields are kept


def parse_header(text: str) -> tuple[str, str]:
    """A header, as "name=value". Raises InvalidRequestError."""
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(value) > _MOST_BYTES:
        raise InvalidRequestError(f"header {text[:200]!r}: wanted name=value in ASCII, the name in lower case")
    if _TAKEN.fullmatch(name):
        raise InvalidRequestError(f"header {name!r} is one that gRPC sets itself, or of bytes")
    return name, value


def names_model(headers: Sequence[tuple[str, str]]) -> bool:
    """Whether any value depends on the request's model."""
    return any("{model}" in value or "{tenant}" in value for _name, value in headers)


class Headers:
    """`of(place)`: the encoded fields for a request for a model of `models`."""

    def __init__(self, headers: Sequence[tuple[str, str]], models: Sequence[LoadModel]) -> None:
        self._same = None if names_model(headers) else _encode(headers, LoadModel("", "", 1))
        self._of = lru_cache(_ENCODED)(lambda place: _encode(headers, models[place]))

    def of(self, place: int) -> bytes:
        """See the class."""
        return self._of(place) if self._same is None else self._same


def _encode(headers: Sequence[tuple[str, str]], model: LoadModel) -> bytes:
    return b"".join(
        literal(name.encode(), value.replace("{tenant}", model.tenant).replace("{model}", model.model).encode())
        for name, value in headers
    )
