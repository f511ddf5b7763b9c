"""What the command line of `scoremesh load` means. Pure but for reading files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ops.load.arrivals import belongs
from ops.load.headers import names_model
from ops.load.spec import LoadModel, LoadSpec, Pattern, RowShare, Target, TenantClass
from registry.errors import InvalidRequestError
from registry.model import check_name

_MOST_REQUESTS = 50_000_000  # two gigabytes of notes


def parse_class(text: str) -> TenantClass:
    """A class of tenants, as "victims,rate=400,zipf=0.9" or "greedy,rate=100,pattern=cycle,from_s=10"."""
    name, *settings = text.split(",")
    pairs = [setting.partition("=")[::2] for setting in settings]
    with _said(f"class {text!r}"):
        _check_keys([key for key, _value in pairs])
        found = msgspec.convert({"name": name, **dict(pairs)}, TenantClass, strict=False)
    numbers = (found.rate, found.zipf, found.churn_s, found.churn_models, found.from_s, found.until_s)
    if check_name("class", name) == "all" or not all(0 <= number < math.inf for number in numbers) or not found.rate:
        raise InvalidRequestError(f"class {text!r}: wanted another name than all, and numbers from 0 on, rate above 0")
    if found.until_s and found.until_s <= found.from_s:
        raise InvalidRequestError(f"class {text!r}: until_s isn't after from_s")
    return found


def _check_keys(keys: Iterable[str]) -> None:
    known = TenantClass.__struct_fields__[1:]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise msgspec.ValidationError(f"{unknown[0]!r} is unknown; there are {', '.join(known)}")


def parse_rows(text: str) -> tuple[RowShare, ...]:
    """How many rows requests have, as "1" or "1:0.9,16:0.1"."""
    found = []
    for part in text.split(","):
        rows, _, share = part.partition(":")
        with _said(f"rows {text!r}"):
            found.append(msgspec.convert({"rows": rows, "share": share or "1"}, RowShare, strict=False))
    if any(each.rows < 1 or not 0 < each.share < math.inf for each in found):
        raise InvalidRequestError(f"rows {text!r}: wanted ROWS:SHARE,..., both above 0")
    return tuple(found)


def parse_model(text: str) -> LoadModel:
    """A model, as "TENANT/MODEL:FEATURES" or "MODEL:FEATURES"."""
    name, _, features = text.rpartition(":")
    tenant, _, model = name.rpartition("/")
    if not model or not features.isdecimal() or not int(features):
        raise InvalidRequestError(f"model {text!r}: wanted TENANT/MODEL:FEATURES")
    return LoadModel(tenant, model, int(features))


def read_models(path: Path) -> tuple[LoadModel, ...]:
    """A file with one JSON object a line: tenant, model, features, and group where there are several classes."""
    decoder = msgspec.json.Decoder(LoadModel)
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        with _said(f"line {number} of {path}"):
            found.append(decoder.decode(line))
        if found[-1].features < 1:
            raise InvalidRequestError(f"line {number} of {path}: a model has at least one feature")
    if not found:
        raise InvalidRequestError(f"{path} has no model")
    return tuple(found)


def check_spec(spec: LoadSpec) -> None:
    """Whether it can be sent. Raises InvalidRequestError."""
    names = [each.name for each in spec.classes]
    if len({*names}) != len(names):
        raise InvalidRequestError(f"two classes have one name: {', '.join(names)}")
    if not spec.addresses:
        raise InvalidRequestError("there is no server to send to")
    for address in spec.addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidRequestError(f"server {address!r}: wanted HOST:PORT")
    for each in spec.classes:
        if not any(belongs(model, each) for model in spec.models):
            raise InvalidRequestError(f"there is no model of class {each.name!r}")
        if each.pattern is Pattern.CYCLE and each.churn_s:
            raise InvalidRequestError(f"class {each.name!r} cycles through its models, so none can become popular")
    if spec.headers and spec.target is Target.CLIENT:
        raise InvalidRequestError("the client library has headers of its own; --header goes with the other targets")
    if spec.batch > 1 and names_model(spec.headers):
        raise InvalidRequestError("a header can't name the model of a batch, which has many")
    _check_sizes(spec)


def _check_sizes(spec: LoadSpec) -> None:
    requests = sum(each.rate for each in spec.classes) * spec.total_s
    if not spec.trace and requests > _MOST_REQUESTS:
        raise InvalidRequestError(
            f"{requests:,.0f} requests are too many for one run; wanted {_MOST_REQUESTS:,} at most"
        )
    for path in (spec.tls.ca, spec.tls.cert, spec.tls.key) if spec.tls else ():
        if path and not Path(path).is_file():
            raise InvalidRequestError(f"there is no certificate file {path}")
    if spec.tls and bool(spec.tls.cert) != bool(spec.tls.key):
        raise InvalidRequestError("a certificate needs its key, and a key its certificate")


@contextlib.contextmanager
def _said(where: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidRequestError(f"{where}: {error}") from error
