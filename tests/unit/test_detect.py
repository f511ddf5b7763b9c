from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from registry.detect import detect_runtime
from registry.errors import ArtifactRejectedError
from registry.model import Runtime


def test_models_are_told_by_their_first_bytes(lightgbm_models: dict[str, Any], onnx_models: dict[str, Any]) -> None:
    for models, runtime in ((lightgbm_models, Runtime.LIGHTGBM), (onnx_models, Runtime.ONNX)):
        for trained in models.values():
            assert detect_runtime(trained.artifact[:64]) is runtime


def zip_head(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "z", "w") as archive:
        archive.writestr("a", "b")
    return (folder / "z").read_bytes()


def test_other_files_are_named(tmp_path: Path) -> None:
    heads = {
        "Python pickle": pickle.dumps([1]),
        "zip archive": zip_head(tmp_path),
        "gzip": b"\x1f\x8b\x08\x00",
        "JSON": b"[1]",
        "XML": b"<?xml",
        "empty": b"",
        "unknown": b"\x00\x01\x02\x03",
    }
    for what, head in heads.items():
        with pytest.raises(ArtifactRejectedError, match=f"{what}.* is accepted"):
            detect_runtime(head)
