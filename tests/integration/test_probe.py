from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from registry import probing
from registry.detect import detect_runtime
from registry.errors import AdmissionUnavailableError, ArtifactRejectedError
from registry.manifest import GoldenRows
from registry.model import OutputKind, Runtime
from registry.offer import Admitted, Offer
from registry.probing import ProbePool, probe

HERE = Path(__file__).parent
ROWS, TARGET = load_breast_cancer(return_X_y=True)


_others: set[psutil.Process] = set()


def offer(data: bytes, runtime: Runtime | None = None, golden: GoldenRows | None = None) -> Offer:
    return Offer(data, hashlib.sha256(data).hexdigest(), runtime or detect_runtime(data[:64]), golden)


def booster() -> Any:
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(ROWS, TARGET), 20)


def onnx_of(estimator: Any) -> bytes:
    model = to_onnx(estimator.fit(ROWS, TARGET), ROWS[:1].astype(np.float32), options={"zipmap": False})
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def lightgbm_text() -> bytes:
    return bytes(booster().model_to_string().encode())


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    return onnx_of(LogisticRegression(solver="liblinear"))


@pytest.fixture(autouse=True)
def _servers_of_other_tests() -> None:
    _others.update(psutil.Process().children(recursive=True))


@pytest.fixture
async def pool() -> AsyncIterator[ProbePool]:
    async with ProbePool(2) as made:
        yield made


@pytest.fixture
async def hostile(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Runs code where a model would be loaded; ends by showing that the program still works and nothing is left."""
    monkeypatch.syspath_prepend(str(HERE))
    async with ProbePool(1, timeout_s=4, program="hostile_probe") as made:
        yield lambda code, golden=None: made.admit(offer(code.encode(), Runtime.ONNX, golden))
        with pytest.raises(ArtifactRejectedError, match="still here"):
            await made.admit(offer(b"say(frame(Refused('still here')))", Runtime.ONNX))
        await until(lambda: len(descendants()) == 1)
    assert not descendants()


def descendants() -> list[psutil.Process]:
    """The processes of the test; servers that a whole run shares are none of them."""
    return [child for child in psutil.Process().children(recursive=True) if child not in _others]


def folder_of(process: psutil.Process) -> str:
    return str(Path(f"/proc/{process.pid}/cwd").readlink())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def graph_file(nodes: list[Any], weights: list[Any]) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


async def test_a_lightgbm_model_is_rewritten_and_measured(pool: ProbePool, lightgbm_text: bytes) -> None:
    admitted = await pool.admit(offer(lightgbm_text))
    assert len(admitted.schema.features) == 30
    assert admitted.schema.outputs[0].columns == ("0", "1")
    assert len(admitted.artifact) < 0.7 * len(lightgbm_text)
    assert 0.5 * len(admitted.artifact) < admitted.resident_bytes < 2 * len(lightgbm_text) + 20_000
    assert 0 < admitted.predict_us["1"] < admitted.predict_us["64"]
    assert admitted.runtime_version == lightgbm.__version__
    rewritten = lightgbm.Booster(model_str=admitted.artifact.decode())
    np.testing.assert_array_equal(rewritten.predict(ROWS), booster().predict(ROWS))


async def test_the_golden_rows_of_a_lightgbm_model_have_its_answers(pool: ProbePool, lightgbm_text: bytes) -> None:
    golden = (await pool.admit(offer(lightgbm_text))).golden
    assert golden is not None
    assert len(golden.dense) == 8
    assert any(value is None for row in golden.dense for value in row)
    dense = np.array(golden.dense, dtype=np.float64)
    np.testing.assert_array_equal(golden.outputs["probabilities"][1::2], booster().predict(dense))


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(solver="liblinear"), GradientBoostingClassifier(n_estimators=10)]
)
async def test_an_onnx_model_is_optimised_and_measured(pool: ProbePool, estimator: Any) -> None:
    admitted = await pool.admit(offer(onnx_of(estimator)))
    assert len(admitted.schema.features) == 30
    assert admitted.schema.outputs[0].kind is OutputKind.CLASS_PROBABILITIES
    assert 10_000 < admitted.resident_bytes < 1_000_000
    assert admitted.predict_us.keys() == {"1", "64"}
    assert admitted.golden is not None
    dense = np.array(admitted.golden.dense, dtype=np.float32)
    np.testing.assert_allclose(
        np.array(admitted.golden.outputs["probabilities"], dtype=np.float64),
        estimator.predict_proba(dense).ravel(),
        rtol=1e-3,
        atol=1e-4,
    )
    assert admitted.artifact[4:8] == b"ORTM" or isinstance(estimator, LogisticRegression)


async def test_golden_rows_that_come_with_the_model(pool: ProbePool, lightgbm_text: bytes) -> None:
    answers = booster().predict(ROWS[:5])
    expected = np.stack([1 - answers, answers], axis=1).ravel().tolist()
    golden = GoldenRows(tuple(map(tuple, ROWS[:5].tolist())), {"probabilities": tuple(expected)})
    admitted = await pool.admit(offer(lightgbm_text, golden=golden))
    assert admitted.golden is not None
    assert admitted.golden.dense == golden.dense
    assert admitted.golden.outputs == golden.outputs
    expected[5] += 0.5
    wrong = msgspec.structs.replace(golden, outputs={"probabilities": tuple(expected)}, tolerance=1e-6)
    with pytest.raises(ArtifactRejectedError, match=r"golden row 3, output probabilities, column 1: expected .*, got "):
        await pool.admit(offer(lightgbm_text, golden=wrong))


async def test_a_model_of_many_features_with_long_names(pool: ProbePool) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4000))
    names = [f"a_rather_long_name_of_a_feature_{i}" for i in range(4000)]
    data = lightgbm.Dataset(rows, rows[:, 0], feature_name=names)
    text = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 2).model_to_string().encode()
    assert (await pool.admit(offer(text))).schema.features == tuple(names)


async def test_many_at_once_share_two_programs(pool: ProbePool, lightgbm_text: bytes, onnx_file: bytes) -> None:
    damaged = offer(lightgbm_text[: len(lightgbm_text) // 2])
    offers = [offer(lightgbm_text), offer(onnx_file), damaged] * 10
    found = await asyncio.gather(*map(pool.admit, offers), return_exceptions=True)
    assert all(isinstance(one, ArtifactRejectedError) for one in found[2::3])
    for kind in (0, 1):
        schemas = [one.schema for one in found[kind::3] if isinstance(one, Admitted)]
        assert schemas == [schemas[0]] * 10
    assert len(descendants()) == 2


async def test_the_program_has_one_thread_and_knows_no_secret(
    lightgbm_text: bytes, onnx_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREMESH_TEST_SECRET", "s")
    async with ProbePool(1) as pool:
        for data in (lightgbm_text, onnx_file):
            await pool.admit(offer(data))
        (program,) = descendants()
        assert program.num_threads() == 1
        assert "SCOREMESH_TEST_SECRET" not in program.environ()
        assert folder_of(program).endswith("(deleted)")


async def test_damaged_lightgbm_models_are_refused(pool: ProbePool, lightgbm_text: bytes) -> None:
    cyclic = lightgbm_text.replace(b"left_child=1", b"left_child=0", 1)
    for data in (lightgbm_text[: len(lightgbm_text) // 2], lightgbm_text[:100], cyclic, b"tree\n" + os.urandom(5000)):
        with pytest.raises(ArtifactRejectedError, match="LightGBM model is damaged"):
            await pool.admit(offer(data, Runtime.LIGHTGBM))


async def test_damaged_onnx_models_are_refused(pool: ProbePool, onnx_file: bytes) -> None:
    for data in (b"", onnx_file[: len(onnx_file) // 2], onnx_file[:3], b"\x08\x07" + os.urandom(5000)):
        with pytest.raises(ArtifactRejectedError, match="ONNX"):
            await pool.admit(offer(data, Runtime.ONNX))


async def test_the_engine_says_why_it_refuses() -> None:
    node = helper.make_node("Add", ["x", "missing"], ["y"])
    with pytest.raises(ArtifactRejectedError, match=r"ONNX Runtime can't (load|optimise) the model: .*missing"):
        await probe(offer(graph_file([node], [])))


async def test_a_model_that_wants_too_much_memory(pool: ProbePool) -> None:
    weights = [numpy_helper.from_array(np.ones((40_000, 1), np.float32), "ones")]
    nodes = [
        helper.make_node("Transpose", ["ones"], ["row"]),
        helper.make_node("MatMul", ["ones", "row"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["most"]),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    with pytest.raises(ArtifactRejectedError, match=r"(?i)alloc|memory"):
        await pool.admit(offer(graph_file(nodes, weights)))


async def test_a_model_that_wants_too_much_memory_for_many_rows(pool: ProbePool) -> None:
    """64 rows take 130 MB, 256 rows 2 GB."""
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["a"]),
        helper.make_node("Unsqueeze", ["a", "second"], ["b"]),
        helper.make_node("Unsqueeze", ["a", "first"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["pairs"]),
        helper.make_node("ReduceMax", ["pairs"], ["most"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "second"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((2, 8000), np.float32), "wide"),
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    with pytest.raises(ArtifactRejectedError, match="can't score 256 rows with 512 MiB"):
        await pool.admit(offer(graph_file(nodes, weights)))


async def test_cancelling_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    async with ProbePool(1, program="hostile_probe") as pool:
        with pytest.raises(ArtifactRejectedError):
            await pool.admit(offer(b"pass", Runtime.ONNX))
        (program,) = descendants()
        task = asyncio.create_task(pool.admit(offer(b"time.sleep(1000)", Runtime.ONNX)))
        await until(lambda: len(descendants()) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not descendants()
        assert not program.is_running()
        with pytest.raises(ArtifactRejectedError, match="no result"):
            await pool.admit(offer(b"pass", Runtime.ONNX))
    assert not descendants()


async def test_cancelling_in_the_middle_of_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    started: list[str] = []

    async def start(program: str) -> probing._Prober:
        started.append(program)
        return await begin(program)

    begin = probing._start
    monkeypatch.setattr(probing, "_start", start)
    async with ProbePool(1, program="endless_probe") as pool:
        task = asyncio.create_task(pool.admit(offer(b"x", Runtime.ONNX)))
        await until(lambda: any(one.io_counters().write_chars > 1 << 20 for one in descendants()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not descendants()
    assert started == ["endless_probe"]


async def test_cancelling_twice_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    async with ProbePool(1, program="endless_probe") as pool:
        task = asyncio.create_task(pool.admit(offer(b"x", Runtime.ONNX)))
        await until(lambda: any(one.io_counters().write_chars > 1 << 20 for one in descendants()))
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not descendants()


@pytest.mark.parametrize("turns", [1, 2, 4, 10, 30, 100])
async def test_cancelling_at_any_moment_of_a_large_upload(turns: int) -> None:
    async with ProbePool(1) as pool:
        with pytest.raises(ArtifactRejectedError):
            await pool.admit(offer(b"x", Runtime.ONNX))
        task = asyncio.create_task(pool.admit(offer(bytes(32 << 20), Runtime.ONNX)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not descendants()


async def test_a_program_that_was_killed_is_started_again(lightgbm_text: bytes) -> None:
    async with ProbePool(1) as pool:
        first = await pool.admit(offer(lightgbm_text))
        (program,) = descendants()
        program.kill()
        program.wait()
        assert (await pool.admit(offer(lightgbm_text))).schema == first.schema


async def test_a_program_that_does_not_start() -> None:
    async with ProbePool(1, program="scorer.there_is_no_such_module") as pool:
        with pytest.raises(AdmissionUnavailableError, match="ends by itself"):
            await pool.admit(offer(b"x", Runtime.ONNX))
    assert not descendants()


_WAITING = """
import asyncio, psutil
from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.offer import Offer
from registry.probing import ProbePool

async def main():
    pool = ProbePool(1, program="hostile_probe")
    try:
        await pool.admit(Offer(b"pass", "", Runtime.ONNX))
    except ArtifactRejectedError:
        pass
    task = asyncio.create_task(pool.admit(Offer(b"time.sleep(1000)", "", Runtime.ONNX)))
    while len(psutil.Process().children(recursive=True)) < 2:
        await asyncio.sleep(0.01)
    print("at work", flush=True)
    await task

asyncio.run(main())
"""


async def test_nothing_is_left_of_a_registry_that_was_killed() -> None:
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WAITING), env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"at work\n"
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    process.kill()
    await process.wait()
    await until(lambda: not any(one.is_running() for one in below))


async def test_what_the_sandbox_of_one_model_lacks_is_logged_once(
    lightgbm_text: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    async with ProbePool(1, program="careless_probe") as pool:
        for _ in range(3):
            await pool.admit(offer(lightgbm_text))
    logged = [line for line in capfd.readouterr().err.splitlines() if "the filter of system calls" in line]
    assert len(logged) == 1
    assert logged[0].endswith("could be had before: the filter of system calls (Cannot allocate memory)")


# Looks through all that it may write to. The pattern doesn't find itself.
LOOK_AROUND = """
mark, found = re.compile(b"SECRET[-]OF[-]TENANT"), 0
maps = os.open("/proc/self/maps", os.O_RDONLY)
text = b"".join(iter(lambda: os.read(maps, 65536), b""))
for line in text.split(b"\\n"):
    fields = line.split()
    if len(fields) > 1 and fields[1].startswith(b"rw"):
        start, end = (int(part, 16) for part in fields[0].split(b"-"))
        found += len(mark.findall(ctypes.string_at(start, end - start)))
say(frame(Refused(f"looked through {len(text) > 1000}, found {found}")))
"""


@pytest.mark.parametrize("size", [100, 3_000, 60_000, 1_000_000])
async def test_a_model_finds_nothing_of_the_one_before(hostile: Callable[..., Any], size: int) -> None:
    mark = "SECRET-OF-TENANT-A"
    code = f"x = '{mark * (size // len(mark))}'\nsay(frame(Rewritten(x.encode())) + frame(Refused(x)))"
    golden = GoldenRows(((1.5,),), {}, {"column": (mark,) * (size // 100)})
    for _ in range(3):
        with pytest.raises(ArtifactRejectedError, match=mark):
            await hostile(code, golden)
    with pytest.raises(ArtifactRejectedError, match=r"looked through True, found 0$"):
        await hostile(LOOK_AROUND)


FORBIDDEN = {
    "connect": "socket.socket().connect(('127.0.0.1', 9))",
    "start a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "fork bomb": "[os.fork() for _ in range(1000)]",
    "write a file": "open('/tmp/scoremesh-probe-test', 'w')",
    "write a file here": "open('x', 'w')",
    "read a secret": "open('/etc/shadow').read()",
    "read the environment": "os.open('/proc/self/environ', os.O_RDONLY)",
    "a file in memory": "os.memfd_create('x')",
    "kill the parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "kill all": "os.kill(-1, signal.SIGKILL)",
    "stop the parent": "os.kill(os.getppid(), signal.SIGSTOP)",
}


async def test_a_file_that_takes_over_an_engine_can_do_nothing(hostile: Callable[..., Any]) -> None:
    for what, code in FORBIDDEN.items():
        with pytest.raises(ArtifactRejectedError) as refusal:
            await hostile(code)
        errors = ("PermissionError", "FileNotFoundError")  # the second where the folder is deleted
        assert refusal.value.message.startswith(tuple(f"tried and failed: {error}" for error in errors)), what


ENDINGS = {
    "os.abort()": "crashed with SIGABRT while loading",
    "ctypes.string_at(0)": "crashed with SIGSEGV while loading",
    "os.kill(os.getpid(), signal.SIGKILL)": "crashed with SIGKILL while loading",
    "time.sleep(1000)": "did not finish loading and predicting in 4 s",
    "while True: pass": "SIGXCPU: the model takes more than 3 s of CPU time|did not finish",
    "os._exit(7)": "ended with exit code 7 and no result",
    "bytearray(8 << 30)": "MemoryError",
    "say(os.urandom(1000))": "an answer that makes no sense",
    "say(b'x')": "an answer that makes no sense",
    "say(struct.pack('<Q', 1 << 60))": "an answer that makes no sense",
    "while True: say(bytes(1 << 20))": "wrote more than [0-9]+ bytes",
    "pass": "ended with exit code 0 and no result",
    "say(frame(Rewritten(b'x')))": "no result",
    "say(frame(Refused('')))": "refused without a reason",
}


async def test_every_end_is_explained(hostile: Callable[..., Any]) -> None:
    for code, told in ENDINGS.items():
        with pytest.raises(ArtifactRejectedError, match=told):
            await hostile(code)


HONEST = """
found = Findings(
    schema=ModelSchema(("a",), (OutputSchema("y", OutputKind.REGRESSION),)),
    resident_bytes=2000,
    predict_us={"1": 1.0, "64": 2.0},
    runtime_version="1",
    golden=GoldenRows(((1.0,),), {"y": (2.0,)}),
    rewritten=True,
)
say(frame(Rewritten(b"x")) + frame(msgspec.structs.replace(found, %s)))
"""

LIES = {
    "resident_bytes=0": "resident_bytes",
    "resident_bytes=1": "resident_bytes",
    "resident_bytes=4 << 30": "resident_bytes",
    "predict_us={}": "predict_us",
    "predict_us={'1': float('inf'), '64': 1.0}": "predict_us",
    "predict_us={'1': float('nan'), '64': 1.0}": "predict_us",
    "runtime_version='x' * 1000": "runtime_version",
    "schema=ModelSchema((), ())": "schema",
    "schema=ModelSchema(('a', 'a'), found.schema.outputs)": "schema",
    "schema=ModelSchema(('a',), found.schema.outputs, dtypes={'b': 'int'})": "schema",
    "golden=GoldenRows((), {'y': ()})": "golden",
    "golden=GoldenRows(((1.0, 2.0),), {'y': (2.0,)})": "golden",
    "golden=GoldenRows(((1.0,),), {'y': (2.0, 3.0)})": "golden",
}


async def test_an_answer_in_form_is_taken(hostile: Callable[..., Any]) -> None:
    assert (await hostile(HONEST % "rewritten=True")).artifact == b"x"


async def test_a_lie_that_shows_is_refused(hostile: Callable[..., Any]) -> None:
    for lie, told in LIES.items():
        with pytest.raises(ArtifactRejectedError, match=f"an answer that can't be true: {told}"):
            await hostile(HONEST % lie)
