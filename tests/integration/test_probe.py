from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from registry.errors import ArtifactRejectedError
from registry.model import OutputKind, Runtime
from registry.probing import detect_runtime, probe


@pytest.fixture(scope="module")
def lightgbm_text() -> bytes:
    rows, target = load_breast_cancer(return_X_y=True)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(rows, target), 20).model_to_string().encode()


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    rows, target = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=5000).fit(rows, target)
    return bytes(to_onnx(model, rows[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())


def graph_file(nodes: list[Any], weights: list[Any]) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def endless_file() -> bytes:
    """Legal operators only, but hours of work: some 10 ^ 14 multiplications that ONNX Runtime starts at load."""
    side = 1500
    ones = numpy_helper.from_array(np.ones((side, 1), np.float32), "ones")
    nodes = [helper.make_node("Transpose", ["ones"], ["row"]), helper.make_node("MatMul", ["ones", "row"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(9_000)]
    nodes += [
        helper.make_node("ReduceMax", ["m9000"], ["most"]),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return graph_file(nodes, [ones])


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model"
    path.write_bytes(data)
    return path


async def running_probe(path: Path) -> psutil.Process:
    """The process that works on this file, once it is there."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for child in psutil.Process().children():
            if str(path) in child.cmdline():
                return child
        await asyncio.sleep(0.01)
    raise AssertionError("no probe was started")


async def test_a_lightgbm_model_is_measured(tmp_path: Path, lightgbm_text: bytes) -> None:
    probed = await probe(write(tmp_path, lightgbm_text), detect_runtime(lightgbm_text[:64]))
    assert len(probed.schema.features) == 30
    assert probed.schema.outputs[0].columns == ("0", "1")
    assert 0.5 * len(lightgbm_text) < probed.resident_bytes < 2 * len(lightgbm_text) + 20_000
    assert 0 < probed.predict_us["1"] < probed.predict_us["64"]


async def test_an_onnx_model_is_measured(tmp_path: Path, onnx_file: bytes) -> None:
    probed = await probe(write(tmp_path, onnx_file), detect_runtime(onnx_file[:64]))
    assert len(probed.schema.features) == 30
    assert probed.schema.outputs[0].kind is OutputKind.CLASS_PROBABILITIES
    assert 10_000 < probed.resident_bytes < 1_000_000
    assert probed.predict_us.keys() == {"1", "64"}


async def test_a_model_of_many_features_with_long_names(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4000))
    names = [f"a_rather_long_name_of_a_feature_{i}" for i in range(4000)]
    data = lightgbm.Dataset(rows, rows[:, 0], feature_name=names)
    text = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 2).model_to_string().encode()
    probed = await probe(write(tmp_path, text), Runtime.LIGHTGBM)
    assert probed.schema.features == tuple(names)


async def test_several_probes_at_once(tmp_path: Path, lightgbm_text: bytes) -> None:
    path = write(tmp_path, lightgbm_text)
    first, second = await asyncio.gather(probe(path, Runtime.LIGHTGBM), probe(path, Runtime.LIGHTGBM))
    assert first.schema == second.schema


async def test_damaged_lightgbm_models_are_refused(tmp_path: Path, lightgbm_text: bytes) -> None:
    cyclic = lightgbm_text.replace(b"left_child=1", b"left_child=0", 1)
    for data in (lightgbm_text[: len(lightgbm_text) // 2], lightgbm_text[:100], cyclic, b"tree\n" + os.urandom(5000)):
        with pytest.raises(ArtifactRejectedError, match="LightGBM model is damaged"):
            await probe(write(tmp_path, data), Runtime.LIGHTGBM)


async def test_damaged_onnx_models_are_refused(tmp_path: Path, onnx_file: bytes) -> None:
    for data in (b"", onnx_file[: len(onnx_file) // 2], onnx_file[:3], b"\x08\x07" + os.urandom(5000)):
        with pytest.raises(ArtifactRejectedError, match="ONNX"):
            await probe(write(tmp_path, data), Runtime.ONNX)


async def test_the_engine_says_why_it_refuses(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "missing"], ["y"])
    with pytest.raises(ArtifactRejectedError, match=r"ONNX Runtime can't load the model: .*missing"):
        await probe(write(tmp_path, graph_file([node], [])), Runtime.ONNX)


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRejectedError, match="no result"):
        await probe(tmp_path / "nothing", Runtime.ONNX)


async def test_a_model_that_wants_too_much_memory(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones((40_000, 1), np.float32), "ones")]
    nodes = [
        helper.make_node("Transpose", ["ones"], ["row"]),
        helper.make_node("MatMul", ["ones", "row"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"]),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    with pytest.raises(ArtifactRejectedError, match=r"(?i)alloc|memory"):
        await probe(write(tmp_path, graph_file(nodes, weights)), Runtime.ONNX)


async def test_a_model_that_never_ends(tmp_path: Path, endless_file: bytes) -> None:
    path = write(tmp_path, endless_file)
    task = asyncio.create_task(probe(path, Runtime.ONNX, timeout_s=2))
    process = await running_probe(path)
    with pytest.raises(ArtifactRejectedError, match="did not finish loading and predicting in 2 s"):
        await task
    assert not process.is_running()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_crash_is_named(tmp_path: Path, endless_file: bytes, number: signal.Signals) -> None:
    path = write(tmp_path, endless_file)
    task = asyncio.create_task(probe(path, Runtime.ONNX))
    (await running_probe(path)).send_signal(number)
    with pytest.raises(ArtifactRejectedError, match=f"crashed with {number.name} while loading"):
        await task


async def test_cancelling_leaves_no_process(tmp_path: Path, endless_file: bytes) -> None:
    path = write(tmp_path, endless_file)
    task = asyncio.create_task(probe(path, Runtime.ONNX))
    process = await running_probe(path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not process.is_running()


def test_detect_runtime(lightgbm_text: bytes, onnx_file: bytes) -> None:
    assert detect_runtime(lightgbm_text[:64]) is Runtime.LIGHTGBM
    assert detect_runtime(onnx_file[:64]) is Runtime.ONNX


def zip_head(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "z", "w") as archive:
        archive.writestr("a", "b")
    return (folder / "z").read_bytes()


def test_other_files_are_named(tmp_path: Path) -> None:
    heads = {
        "Python pickle": pickle.dumps([1]),
        "zip archive": zip_head(tmp_path),
        "gzip": b"\x1f\x8b\x08\x00",
        "JSON": b'{"learner": {}}',
        "XML": b"<?xml",
        "empty": b"",
        "unknown": b"\x00\x01\x02\x03",
    }
    for what, head in heads.items():
        with pytest.raises(ArtifactRejectedError, match=f"{what}.* is accepted"):
            detect_runtime(head)
