"""Publishing through the registry's gRPC service: a real socket, real files, callers that leave and die."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from ops.etcd_server import EtcdServer
from ops.process import guarded
from ops.server_process import open_channel
from registry.model import ModelSchema
from registry.offer import Admitted, Offer
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests.e2e.fixtures import make_tls
from tests.integration.conftest import WaitUntil
from tests.integration.publishing import SCHEMA, check_synced, constant_admit, index_entry
from tests.integration.registry_calls import MODEL, REF, Rig, V, onnx_like, parts, real_model, refused, running

Status = grpc.StatusCode
INVALID = (Status.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.fixture
async def rig(tmp_path: Path, etcd_server: EtcdServer) -> AsyncIterator[Rig]:
    async with running(tmp_path, etcd_server, published_by="operator") as rig:
        yield rig


def _nameless_files() -> dict[int, int]:
    """Inode to size of the files without a name that this process has open."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            path, stat = str(entry.readlink()), entry.stat()
            if path.startswith(f"{tempfile.gettempdir()}/") and path.endswith("(deleted)"):
                found[stat.st_ino] = stat.st_size
    return found


_NOT_OURS = _nameless_files()  # what the test runner writes its output to


def open_uploads() -> list[int]:
    """Sizes of the uploads that this process holds."""
    return [size for inode, size in _nameless_files().items() if inode not in _NOT_OURS]


TRANSFORMS = {
    "features": ["age", "income"],
    "string_columns": ["city"],
    "columns": [
        {"input": "age", "steps": [{"op": "impute", "value": 40.0}]},
        {"input": "income", "steps": [{"op": "log1p"}]},
        {"input": "city", "steps": [{"op": "ordinal", "categories": ["Bern", "Oslo"], "unknown": "missing"}]},
    ],
}


async def test_a_real_model_through_real_admission(tmp_path: Path, etcd_server: EtcdServer) -> None:
    data = real_model()
    async with running(tmp_path, etcd_server, admit=None, published_by="operator") as rig:
        version = await rig.publish(
            data, labels={"team": "risk"}, training={"run": "7"}, transforms_json=json.dumps(TRANSFORMS)
        )
        assert version.name == f"{V}/1"
        assert (version.state, version.runtime) == (pb.VERSION_STATE_LIVE, "lightgbm")
        assert (version.source_bytes, version.source_sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert version.artifact_bytes < len(data)
        assert [feature.name for feature in version.schema.features] == ["age", "income"]
        assert list(version.schema.string_columns) == ["city"]
        assert version.golden.row_count > 0
        assert version.resident_bytes > 0
        assert set(version.predict_us) == {"1", "64"}
        assert version.labels == {"team": "risk"}
        assert version.training == {"run": "7"}
        assert json.loads(version.transforms_json) == TRANSFORMS
        assert version.published_by == "operator"
        again = (await rig.stub.GetVersion(pb.GetVersionRequest(name=version.name))).version
        assert again.SerializeToString(deterministic=True) == version.SerializeToString(deterministic=True)  # has NaN
        record = await check_synced(rig.store, rig.deployment.ledger.etcd, rig.keys, REF)
        assert record.aliases["live"].package == version.package
        pickled = b"\x80\x04" + data
        text = await refused(rig.publish(pickled), Status.INVALID_ARGUMENT, "ARTIFACT_REJECTED")
        assert "a Python pickle" in text
        text = await refused(rig.publish(data[: len(data) // 2]), Status.INVALID_ARGUMENT, "ARTIFACT_REJECTED")
        assert (await rig.model()).aliases == {"live": "1"}
    assert open_uploads() == []


async def test_golden_rows_of_the_publisher_are_kept_to(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async with running(tmp_path, etcd_server, admit=None) as rig:
        golden = (await rig.publish(real_model())).golden
        assert (await rig.publish(real_model(), golden=golden)).golden == golden
        golden.outputs[0].values[0] += 1
        text = await refused(rig.publish(real_model(), golden=golden), Status.INVALID_ARGUMENT, "ARTIFACT_REJECTED")
        assert "golden row" in text


async def test_a_repeated_request_publishes_once(rig: Rig) -> None:
    first = await rig.publish(onnx_like("a"), request_id="r1")
    second = await rig.publish(onnx_like("b"), request_id="r2")
    assert (first.name, second.name) == (f"{V}/1", f"{V}/2")
    again = await rig.publish(onnx_like("a"), request_id="r1")
    assert again.name == first.name
    model = await rig.model()
    assert model.aliases == {"live": "2"}
    assert (len(model.versions), model.etag) == (2, "2")
    text = await refused(rig.publish(onnx_like("c"), request_id="r1"), Status.ALREADY_EXISTS, "VERSION_EXISTS")
    assert "request r1" in text


async def test_a_version_keeps_its_content(rig: Rig) -> None:
    first = await rig.publish(onnx_like("a"), version="v1")
    assert await rig.publish(onnx_like("a"), version="v1") == first
    text = await refused(rig.publish(onnx_like("b"), version="v1"), Status.ALREADY_EXISTS, "VERSION_EXISTS")
    assert "version v1 of model acme/churn" in text


async def test_a_version_without_alias_is_stored_only(rig: Rig) -> None:
    version = await rig.publish(onnx_like("a"), aliases=[])
    assert version.state == pb.VERSION_STATE_VALIDATED
    assert (await rig.model()).aliases == {}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"parent": ""}, "spec.parent: is missing"),
        ({"parent": "acme/churn"}, "spec.parent: 'acme/churn' is not of the form tenants/{tenant}/models/{model}"),
        ({"parent": "tenants/acme/models/../x"}, "spec.parent"),
        ({"version": "a b"}, "spec.version: version 'a b'"),
        ({"aliases": ["live", "-"]}, "spec.aliases: alias '-'"),
        ({"runtime": "tensorflow"}, "spec.runtime: 'tensorflow' is unknown; there are lightgbm, onnx"),
        ({"application": "a/b"}, "spec.application: application 'a/b'"),
        ({"transforms_json": "{"}, "transforms_json"),
        ({"golden": pb.GoldenRows(row_count=3, dense=[1])}, "golden.row_count"),
        ({"request_id": "r" * 200}, "request_id"),
        ({"training": {"log": "x" * 70_000}}, "spec.training: it has 70003 bytes"),
        ({"sha256": ""}, "spec.sha256"),
        ({"sha256": "A" * 64}, "spec.sha256"),
        ({"sha256": "0" * 64}, "sha256: 9 bytes came, with"),
    ],
)
async def test_requests_that_can_not_be(rig: Rig, spec: dict[str, Any], words: str) -> None:
    assert words in await refused(rig.publish(onnx_like("a"), **spec), Status.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert await rig.objects() == []


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "the first message of an upload must have `spec`"),
        ([{"chunk": b"x"}], "the first message of an upload must have `spec`"),
        ([{"spec": "ok"}, {"spec": "ok"}], "after the first must have `chunk`"),
        ([{"spec": "ok"}, {}], "after the first must have `chunk`"),
        ([{"spec": "ok"}, {"chunk": b""}], "a chunk has no bytes"),
        ([{"spec": "ok"}, {"chunk": bytes((1 << 20) + 1)}], "a chunk has 1048577 bytes"),
    ],
)
async def test_streams_that_can_not_be(rig: Rig, messages: list[dict[str, Any]], words: str) -> None:
    spec = pb.PublishSpec(parent=MODEL, sha256="0" * 64)

    async def send() -> AsyncIterator[pb.PublishVersionRequest]:
        for message in messages:
            yield pb.PublishVersionRequest(**message | ({"spec": spec} if "spec" in message else {}))

    assert words in await refused(rig.stub.PublishVersion(send()), Status.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert open_uploads() == []


async def test_an_application_must_be_there(rig: Rig) -> None:
    text = await refused(rig.publish(onnx_like("a"), application="nobody"), Status.NOT_FOUND, "NOT_FOUND")
    assert text == "there is no application 'nobody'"
    await rig.stub.SetApplication(pb.SetApplicationRequest(application=pb.Application(name="applications/x")))
    assert (await rig.publish(onnx_like("a"), application="x")).application == "x"
    assert (await rig.publish(onnx_like("b"))).application == "x"


async def test_a_contract_is_broken_on_purpose_only(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async def admit(offer: Offer) -> Admitted:
        names = tuple(offer.data.decode(errors="replace").partition("test")[2].split(","))
        return (await constant_admit(offer))._replace(schema=ModelSchema(names, SCHEMA.outputs))

    async with running(tmp_path, etcd_server, admit=admit) as rig:
        await rig.publish(onnx_like("age,income"))
        await rig.publish(onnx_like("age,income"), version="same")
        text = await refused(rig.publish(onnx_like("age")), Status.FAILED_PRECONDITION, "CONTRACT_BROKEN")
        assert "breaks the contract of model acme/churn: feature 2 (income)" in text
        await rig.publish(onnx_like("age"), allow_breaking=True)
        await refused(rig.publish(onnx_like("income,age")), Status.FAILED_PRECONDITION, "CONTRACT_BROKEN")
        assert [f.name for f in (await rig.publish(onnx_like("age"))).schema.features] == ["age"]


async def test_a_schema_that_is_too_large_is_refused(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async def admit(offer: Offer) -> Admitted:
        columns = tuple(f"feature_number_{number:020d}" for number in range(15_000))
        return (await constant_admit(offer))._replace(schema=ModelSchema(columns, SCHEMA.outputs))

    async with running(tmp_path, etcd_server, admit=admit) as rig:
        text = await refused(rig.publish(onnx_like("a")), Status.INVALID_ARGUMENT, "ARTIFACT_REJECTED")
        assert "the model's schema has" in text


async def test_uploads_of_nothing_hold_no_turn(rig: Rig) -> None:
    ended = asyncio.Event()

    async def send() -> AsyncIterator[pb.PublishVersionRequest]:
        yield pb.PublishVersionRequest(spec=pb.PublishSpec(parent=MODEL, sha256="0" * 64))
        yield pb.PublishVersionRequest(chunk=b"")
        await ended.wait()  # and not another one: grpcio fails a call as INTERNAL that ends while it sends

    calls = [asyncio.ensure_future(refused(rig.stub.PublishVersion(send()), *INVALID)) for _ in range(8)]
    assert await rig.publish(onnx_like("a"))
    assert await asyncio.gather(*calls) == ["a chunk has no bytes"] * 8
    ended.set()


async def test_a_tenant_that_goes_takes_no_models(rig: Rig) -> None:
    ledger = rig.deployment.ledger
    await ledger.change_tenant("acme", lambda record: msgspec.structs.replace(record, deleting=True))
    await refused(rig.publish(onnx_like("a")), Status.ABORTED, "CONFLICT")


async def test_a_large_file_comes_in_parts(rig: Rig) -> None:
    data = onnx_like("a") + os.urandom(5 << 20)
    version = await rig.publish(data)
    assert version.source_bytes == len(data)
    spec = pb.PublishSpec(parent=MODEL, sha256=hashlib.sha256(data).hexdigest(), version="again", aliases=["live"])
    small = await rig.stub.PublishVersion(parts(spec, data, chunk_bytes=50_000))
    assert small.version.source_sha256 == version.source_sha256
    assert open_uploads() == []


_DYING = """
import sys, time, grpc
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub
def parts():
    yield pb.PublishVersionRequest(spec=pb.PublishSpec(parent="tenants/acme/models/churn", sha256="0" * 64))
    for _ in range(3):
        yield pb.PublishVersionRequest(chunk=b"\\x08\\x08\\x12\\x04test" + bytes(1 << 19))
    time.sleep(600)
RegistryServiceStub(grpc.insecure_channel(sys.argv[1])).PublishVersion(parts())
"""


async def test_a_client_that_dies_in_mid_upload_leaves_nothing(rig: Rig, wait_until: WaitUntil) -> None:
    client = subprocess.Popen(guarded([sys.executable, "-c", _DYING, rig.address]))  # noqa: ASYNC220 - returns at once
    try:
        await wait_until(lambda: any(open_uploads()))
        client.kill()
        await wait_until(lambda: not open_uploads())
    finally:
        client.kill()
        client.wait()
    assert await rig.objects() == []


async def test_a_caller_that_leaves_while_it_uploads_leaves_nothing(rig: Rig, wait_until: WaitUntil) -> None:
    never = asyncio.Event()

    async def send() -> AsyncIterator[pb.PublishVersionRequest]:
        yield pb.PublishVersionRequest(spec=pb.PublishSpec(parent=MODEL, sha256="0" * 64))
        yield pb.PublishVersionRequest(chunk=bytes(1 << 20))
        yield pb.PublishVersionRequest(chunk=bytes(1))
        await never.wait()

    call = rig.stub.PublishVersion(send())
    await wait_until(lambda: any(open_uploads()))
    call.cancel()
    await wait_until(lambda: not open_uploads())
    late = rig.stub.PublishVersion(send(), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await late
    assert caught.value.code() == Status.DEADLINE_EXCEEDED
    await wait_until(lambda: not open_uploads())
    assert await rig.objects() == []


class Gate:
    """Admission that waits until it may go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def admit(self, offer: Offer) -> Admitted:
        self.waiting += 1
        await self.opened.wait()
        return await constant_admit(offer)


async def test_what_has_begun_goes_on_without_its_caller(
    tmp_path: Path, etcd_server: EtcdServer, wait_until: WaitUntil
) -> None:
    gate = Gate()
    async with running(tmp_path, etcd_server, admit=gate.admit) as rig:
        call = asyncio.ensure_future(rig.publish(onnx_like("a"), request_id="r"))
        await wait_until(lambda: gate.waiting == 1)
        call.cancel()
        await asyncio.wait({call})
        gate.opened.set()
        await wait_until(lambda: not open_uploads())
        assert (await rig.publish(onnx_like("a"), request_id="r")).name == f"{V}/1"
        assert gate.waiting == 1
        assert (await rig.model()).aliases == {"live": "1"}


async def test_a_stop_waits_for_what_has_begun(tmp_path: Path, etcd_server: EtcdServer, wait_until: WaitUntil) -> None:
    gate = Gate()
    async with running(tmp_path, etcd_server, admit=gate.admit, drain_s=30.0) as rig:
        call = asyncio.ensure_future(rig.publish(onnx_like("a")))
        await wait_until(lambda: gate.waiting == 1)
        asyncio.get_running_loop().call_later(0.3, gate.opened.set)
    assert call.done() or not open_uploads()
    await asyncio.wait({call})
    async with running(tmp_path, etcd_server) as rig:
        assert (await rig.model()).aliases == {"live": "1"}


async def test_uploads_wait_for_their_turn(tmp_path: Path, etcd_server: EtcdServer, wait_until: WaitUntil) -> None:
    gate = Gate()
    async with running(tmp_path, etcd_server, admit=gate.admit, uploads=2) as rig:
        calls = [asyncio.ensure_future(rig.publish(onnx_like(str(n)), f"tenants/acme/models/m{n}")) for n in range(6)]
        await wait_until(lambda: gate.waiting == 2)
        assert len(open_uploads()) == 2
        gate.opened.set()
        versions = await asyncio.gather(*calls)
        assert gate.waiting == 6
        assert {version.name for version in versions} == {f"tenants/acme/models/m{n}/versions/1" for n in range(6)}


async def test_a_callers_certificate_says_who_publishes(tmp_path: Path, etcd_server: EtcdServer) -> None:
    tls = make_tls(tmp_path)
    async with running(tmp_path, etcd_server, tls=tls, published_by="nobody") as rig:
        async with open_channel(rig.address, tls) as channel:
            stub = RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
            data = onnx_like("a")
            spec = pb.PublishSpec(parent=MODEL, sha256=hashlib.sha256(data).hexdigest())
            version = (await stub.PublishVersion(parts(spec, data))).version
        assert version.published_by not in ("", "nobody")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.model()  # its channel speaks plain text
        assert caught.value.code() == Status.UNAVAILABLE


async def test_etcd_down_means_stored_but_not_told(tmp_path: Path, own_server: EtcdServer) -> None:
    async with running(tmp_path, own_server, etcd_user="") as rig:
        await rig.publish(onnx_like("a"))
        await asyncio.to_thread(own_server.terminate)
        text = await refused(rig.publish(onnx_like("b"), aliases=[]), Status.UNAVAILABLE, "ETCD_UNAVAILABLE")
        assert "is stored, but not yet in etcd" in text
        own_server.start()
        answers = [answer async for answer in rig.stub.Rebuild(pb.RebuildRequest(name=MODEL))]
        assert (answers[-1].models, answers[-1].written, answers[-1].failed) == (1, 1, 0)
        entry = await index_entry(rig.deployment.ledger.etcd, rig.keys, REF)
        assert entry is not None
        assert entry.revision == 2
