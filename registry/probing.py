"""Tries a model file in a process that may die.

Contract: whatever the file does to the process that loads it (crash, hang, eat memory, print garbage), the caller gets
either what was measured or an ArtifactRejectedError that says what happened, and no process is left. The program itself
is `python -m scorer.probe`; it is started by command line, as this package imports nothing of the scorer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from registry.errors import ArtifactRejectedError
from registry.lightgbm_text import MAGIC as LIGHTGBM_MAGIC
from registry.model import ModelSchema, Runtime

_MAX_OUTPUT_BYTES = 4 << 20
_ACCEPTED = "a LightGBM text model (Booster.save_model) or an ONNX model is accepted"
_LOOKS_LIKE = {
    b"\x80": "a Python pickle, which may run code when it is read",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\x89HDF": "an HDF5 file",
    b"ORTM": "an ONNX Runtime .ort file",
    b"{": "JSON",
    b"[": "JSON",
    b"<": "XML",
}


class Probed(msgspec.Struct, frozen=True):
    """What the probe found. `resident_bytes`: upper bound of what one loaded copy takes. `predict_us`: microseconds of
    one predict with so many rows (the keys, "1" and "64"), best of several.
    """

    schema: ModelSchema
    resident_bytes: int
    predict_us: dict[str, float]


class _Outcome(msgspec.Struct):
    """The last line that the probe prints: either what it found or why it refuses."""

    probed: Probed | None = None
    refused: str = ""


def detect_runtime(head: bytes) -> Runtime:
    """Which engine a file is for, by its first bytes; 64 are enough.

    Raises:
        ArtifactRejectedError: it is something else; the text names what it looks like.
    """
    if head.startswith(LIGHTGBM_MAGIC):
        return Runtime.LIGHTGBM
    for magic, what in _LOOKS_LIKE.items():
        if head.startswith(magic):
            raise ArtifactRejectedError(f"the file is {what}; {_ACCEPTED}")
    if _starts_like_onnx(head):
        return Runtime.ONNX
    what = "the file is of an unknown format" if head else "the file is empty"
    raise ArtifactRejectedError(f"{what}; {_ACCEPTED}")


def _starts_like_onnx(head: bytes) -> bool:
    """ModelProto begins with field 1, ir_version, a varint of one byte; then comes another known field: opset_import
    (8), producer_name (2) and the like, all length-delimited, or model_version (5), a varint.
    """
    return (
        len(head) > 3
        and head[0] == 0x08
        and 1 <= head[1] < 0x80
        and head[2] in {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42}
    )


async def probe(path: Path, runtime: Runtime, *, timeout_s: float = 30) -> Probed:
    """Load and run the model in a process of its own and return what was measured.

    Raises:
        ArtifactRejectedError: the engine refused it, or the process crashed, hung or ran out of memory.
    """
    with tempfile.TemporaryDirectory(prefix="scoremesh-probe-") as empty:
        process = await _start(path, runtime, Path(empty))
        try:
            output = await asyncio.wait_for(_read_all(process), timeout_s)
        except TimeoutError as error:
            raise ArtifactRejectedError(
                f"the model did not finish loading and predicting in {timeout_s:g} s"
            ) from error
        finally:
            await _end(process)
    return _judge(process.returncode or 0, output)


async def _start(path: Path, runtime: Runtime, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_command(path, runtime),
        cwd=cwd,  # an ONNX model may name files beside itself: there are none
        env=_environment(cwd),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


def _command(path: Path, runtime: Runtime) -> list[str]:
    return [sys.executable, "-P", "-B", "-m", "scorer.probe", runtime.value, str(path.absolute())]


def _environment(home: Path) -> dict[str, str]:
    """Only what Python needs: no secret of this process is readable for a file that takes over the probe."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
    }


async def _read_all(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 -- it was opened as a pipe
    output = bytearray()
    while len(output) < _MAX_OUTPUT_BYTES and (piece := await process.stdout.read(1 << 16)):
        output += piece
    await process.wait()
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the whole process group, so that nothing that the probe started survives it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _judge(return_code: int, output: bytes) -> Probed:
    if return_code < 0:
        raise ArtifactRejectedError(f"the process crashed with {_signal_name(-return_code)} while loading the model")
    lines = output.splitlines()
    try:
        outcome = msgspec.json.decode(lines[-1] if lines else b"", type=_Outcome)
    except msgspec.DecodeError as error:
        raise ArtifactRejectedError(f"the probe ended with exit code {return_code} and no result") from error
    if outcome.probed is None:
        raise ArtifactRejectedError(outcome.refused or "the model was refused without a reason")
    return outcome.probed


def _signal_name(number: int) -> str:
    return {signal.SIGXCPU: "SIGXCPU (out of CPU time)"}.get(signal.Signals(number), signal.Signals(number).name)
