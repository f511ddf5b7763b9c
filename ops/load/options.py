"""What the command line of `scoremesh load` means. Pure but for reading files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ops.load.spec import LoadModel, RowShare, TenantClass
from registry.errors import InvalidRequestError


def parse_class(text: str) -> TenantClass:
    """A class of tenants, as "victims,rate=400,zipf=0.9" or "greedy,rate=100,pattern=cycle,from_s=10"."""
    name, *settings = text.split(",")
    pairs = [setting.partition("=")[::2] for setting in settings]
    with _said(f"class {text!r}"):
        found = msgspec.convert({"name": name, **dict(pairs)}, TenantClass, strict=False)
        _check_keys([key for key, _value in pairs])
    return found


def _check_keys(keys: Iterable[str]) -> None:
    known = TenantClass.__struct_fields__
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise msgspec.ValidationError(f"{unknown[0]!r} is unknown; there are {', '.join(known[1:])}")


def parse_rows(text: str) -> tuple[RowShare, ...]:
    """How many rows requests have, as "1" or "1:0.9,16:0.1"."""
    found = []
    for part in text.split(","):
        rows, _, share = part.partition(":")
        with _said(f"rows {text!r}"):
            found.append(msgspec.convert({"rows": rows, "share": share or "1"}, RowShare, strict=False))
    if any(each.rows < 1 or each.share <= 0 for each in found):
        raise InvalidRequestError(f"rows {text!r}: wanted ROWS:SHARE,..., both above 0")
    return tuple(found)


def parse_model(text: str) -> LoadModel:
    """A model, as "TENANT/MODEL:FEATURES" or "MODEL:FEATURES"."""
    name, _, features = text.rpartition(":")
    tenant, _, model = name.rpartition("/")
    if not model or not features.isdecimal():
        raise InvalidRequestError(f"model {text!r}: wanted TENANT/MODEL:FEATURES")
    return LoadModel(tenant, model, int(features))


def read_models(path: Path) -> tuple[LoadModel, ...]:
    """A file with one JSON object a line: tenant, model, features, and group where there are several classes."""
    decoder = msgspec.json.Decoder(LoadModel)
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}") from error
    for number, line in enumerate(lines, start=1):
        with _said(f"line {number} of {path}"):
            found.append(decoder.decode(line))
    if not found:
        raise InvalidRequestError(f"{path} has no model")
    return tuple(found)


@contextlib.contextmanager
def _said(where: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidRequestError(f"{where}: {error}") from error
