"""The command `publish`: a model file of any kind becomes a version.

LightGBM text, ONNX and XGBoost files are sent as they are. scikit-learn models, and with `--runtime onnx` XGBoost's,
are turned into ONNX here, on the publisher's machine, pipelines also into transforms and a model behind them, and
compared on sample rows: no server ever loads a pickle.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from ops.convert import Converted, Source, convert, convertible
from ops.models import RequestIdOption
from ops.registry_link import Target, takes_target, with_stub
from ops.resource_names import last_part, parse_pairs
from ops.sample_rows import read_sample_rows
from ops.show import OutputFormat, OutputOption, show_json
from registry.detect import detect_runtime
from registry.errors import ArtifactRejectedError, InvalidRequestError
from registry.manifest import GoldenRows
from registry.model import LIVE, ModelRef, Runtime, check_name
from registry.service.schemas import to_golden
from registry.transforms import encode_spec
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 64
_NAME_VALUE = "NAME=VALUE"


@takes_target
def publish(
    target: Target,
    file: Annotated[Path, typer.Argument(help="A LightGBM, ONNX, XGBoost (json, ubj) or scikit-learn (pkl) model.")],
    tenant: Annotated[str, typer.Option(help="Whose model it is.")],
    model: Annotated[str, typer.Option(help="What it is called.")],
    version: Annotated[str, typer.Option(help="Its version; default: the next free number.")] = "",
    alias: Annotated[list[str] | None, typer.Option(help='Point this alias at it; default: live; "" for none.')] = None,
    application: Annotated[str, typer.Option(help="The application that the model is of.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar=_NAME_VALUE, help="For selecting it.")] = None,
    training: Annotated[list[str] | None, typer.Option(metavar=_NAME_VALUE, help="Of the training: run, AUC.")] = None,
    runtime: Annotated[Runtime | None, typer.Option(help="Engine that scores it; onnx converts XGBoost files.")] = None,
    sample: Annotated[Path | None, typer.Option(help="CSV with rows to compare a converted model on.")] = None,
    golden: Annotated[Path | None, typer.Option(help="JSON with rows and the answers that it must give.")] = None,
    transforms: Annotated[Path | None, typer.Option(help="JSON with the transforms before the model.")] = None,
    signature: Annotated[str, typer.Option(help="The publisher's own over the file; kept with it.")] = "",
    allow_breaking: Annotated[bool, typer.Option("--allow-breaking", help="It may break the contract.")] = False,
    request_id: RequestIdOption = "",
    output: OutputOption = OutputFormat.TABLE,
) -> None:
    """Publish a model file as a new version. Doing it again with the same --version or --request-id is harmless."""
    ref = ModelRef(check_name("tenant", tenant), check_name("model", model))
    aliases = [name for name in (alias if alias is not None else [LIVE]) if name]
    converted = _converted(file, sample, runtime)
    data = converted.data if converted is not None else _read(file)
    answers = _read_golden(golden) if golden is not None else converted.golden if converted is not None else None
    spec = pb.PublishSpec(
        parent=f"tenants/{ref.tenant}/models/{ref.model}",
        version=version,
        aliases=aliases,
        application=application,
        labels=parse_pairs(label, "--label"),
        training={**(converted.training if converted is not None else {}), **parse_pairs(training, "--training")},
        transforms_json=_transforms(transforms, converted),
        signature=signature,
        golden=to_golden(answers) if answers is not None else None,
        allow_breaking=allow_breaking,
        request_id=request_id,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    published = with_stub(target, lambda stub: upload(stub, spec, data))
    if output is OutputFormat.JSON:
        show_json(MessageToDict(published, preserving_proto_field_name=True))
        return
    as_what = f" as {', '.join(aliases)}" if aliases else ""
    typer.echo(f"published {ref} version {last_part(published.name)}{as_what}")


async def upload(stub: RegistryServiceStub, spec: pb.PublishSpec, data: bytes) -> pb.Version:
    """Publish these bytes."""

    async def parts() -> AsyncIterator[pb.PublishVersionRequest]:
        yield pb.PublishVersionRequest(spec=spec)
        for start in range(0, len(data), _CHUNK_BYTES):
            yield pb.PublishVersionRequest(chunk=data[start : start + _CHUNK_BYTES])
            await asyncio.sleep(0)

    answer: pb.PublishVersionResponse = await stub.PublishVersion(parts())
    return answer.version


def _converted(file: Path, sample: Path | None, runtime: Runtime | None) -> Converted | None:
    """What a file becomes here; None where it's sent as it is."""
    source = convertible(file)
    if source is None or (source is Source.XGBOOST and runtime is not Runtime.ONNX):
        if sample is not None:
            raise InvalidRequestError(
                "--sample is for models that are converted: scikit-learn's, and XGBoost's with --runtime onnx"
            )
        if runtime is not None:
            _check_runtime(file, runtime, detect_runtime(_read(file)[:_HEAD_BYTES]))
        return None
    converted = convert(file, read_sample_rows(sample) if sample is not None else None)
    _check_runtime(file, runtime or converted.runtime, converted.runtime)
    what = "LightGBM" if converted.runtime is Runtime.LIGHTGBM else "ONNX"
    what += " behind transforms" if converted.transforms is not None else ""
    typer.echo(f"converted {file.name} to {what}; greatest difference {converted.worst_difference:.3g}", err=True)
    return converted


def _check_runtime(file: Path, wanted: Runtime, found: Runtime) -> None:
    if wanted is not found:
        raise InvalidRequestError(f"--runtime {wanted.value}: {file.name} is for {found.value}")


def _transforms(file: Path | None, converted: Converted | None) -> str:
    """JSON, empty for none: those that are given, else those that the conversion made."""
    made = converted.transforms if converted is not None else None
    if file is None:
        return encode_spec(made).decode() if made is not None else ""
    if made is not None:
        raise InvalidRequestError("--transforms: the file has transforms of its own")
    return _read(file).decode(errors="replace")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactRejectedError(f"can't read {file}: {error.strerror}") from error


def _read_golden(file: Path) -> GoldenRows:
    """{"rows": [[...]], "outputs": {name: [...]}, "strings": {column: [...]}, "tolerance": 0.0}"""
    try:
        held = json.loads(_read(file))
        return GoldenRows(
            dense=tuple(tuple(row) for row in held["rows"]),
            outputs={name: tuple(values) for name, values in held["outputs"].items()},
            strings={name: tuple(values) for name, values in held.get("strings", {}).items()},
            tolerance=float(held.get("tolerance", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f'{file} is not golden rows: {{"rows": [[1, 2]], "outputs": {{"value": [3]}}, "tolerance": 0}}'
        ) from error
