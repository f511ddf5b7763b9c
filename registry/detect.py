"""Which engine a file is for, by its first bytes. Pure."""

from __future__ import annotations

from registry.errors import ArtifactRejectedError
from registry.lightgbm_text import MAGIC as LIGHTGBM_MAGIC
from registry.model import Runtime

_ACCEPTED = "a LightGBM text model, an XGBoost model (both by Booster.save_model) or an ONNX model is accepted"
_LOOKS_LIKE = {
    b"\x80": "a Python pickle, which may run code when it is read",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"\x89HDF": "an HDF5 file",
    b"ORTM": "an ONNX Runtime .ort file",
    b"[": "JSON of another kind",
    b"<": "XML",
}


def detect_runtime(head: bytes) -> Runtime:
    """Which engine a file is for, by its first bytes; 64 are enough.

    Raises:
        ArtifactRejectedError: it is something else; the text names what it looks like.
    """
    if head.startswith(LIGHTGBM_MAGIC):
        return Runtime.LIGHTGBM
    if looks_like_xgboost(head):
        return Runtime.XGBOOST
    for magic, what in _LOOKS_LIKE.items():
        if head.startswith(magic):
            raise ArtifactRejectedError(f"the file is {what}; {_ACCEPTED}")
    if _starts_like_onnx(head):
        return Runtime.ONNX
    what = "the file is of an unknown format" if head else "the file is empty"
    raise ArtifactRejectedError(f"{what}; {_ACCEPTED}")


def looks_like_xgboost(head: bytes) -> bool:
    """Whether a file is an object in UBJSON or JSON, which admission then looks into."""
    return head.startswith(b"{")


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
