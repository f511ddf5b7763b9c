"""`python -m registry` as a process: start, health, stop."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ops.etcd_server import EtcdServer, free_port
from ops.server_process import FrontProcess, open_channel
from registry.config import parse
from registry.errors import UnavailableError
from registry.etcd import TlsFiles
from registry.service.servicer import SERVICE
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests.e2e.fixtures import make_tls
from tests.integration.registry_calls import MODEL, parts, real_model

Make = Callable[..., FrontProcess]


@pytest.fixture
async def make(tmp_path: Path, etcd_server: EtcdServer) -> AsyncIterator[Make]:
    made: list[FrontProcess] = []
    cluster = f"test-{uuid.uuid4().hex}"

    def build(*more: str, etcd: str = etcd_server.endpoint, tls: TlsFiles | None = None, port: int = 0) -> FrontProcess:
        arguments = ["--store", f"file://{tmp_path}/store", "--etcd", etcd, "--cluster", cluster, *more]
        made.append(FrontProcess("registry", "registry", arguments, tmp_path / "log", port=port, tls=tls))
        return made[-1]

    yield build
    for process in made:
        await process.terminate()


async def publish(channel: grpc.aio.Channel) -> pb.Version:
    stub = RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
    data = real_model()
    spec = pb.PublishSpec(parent=MODEL, aliases=["live"], sha256=hashlib.sha256(data).hexdigest())
    version: pb.Version = (await stub.PublishVersion(parts(spec, data))).version
    return version


async def test_it_serves_and_says_so(make: Make) -> None:
    process = make("--drain-s", "2")
    await process.start()
    async with open_channel(process.address, None) as channel:
        assert (await publish(channel)).state == pb.VERSION_STATE_LIVE
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.ensure_future(process.terminate())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping
    await process.start()
    async with open_channel(process.address, None) as channel:
        assert (await publish(channel)).name == f"{MODEL}/versions/2"
    # gRPC's fork handlers crash children: see `registry.__main__`.
    assert b"fork() handlers" not in process.log_path.read_bytes()


async def test_a_stop_lets_the_running_upload_end(make: Make) -> None:
    process = make("--drain-s", "30")
    await process.start()
    data = real_model()
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[pb.PublishVersionRequest]:
        spec = pb.PublishSpec(parent=MODEL, aliases=["live"], sha256=hashlib.sha256(data).hexdigest())
        yield pb.PublishVersionRequest(spec=spec)
        yield pb.PublishVersionRequest(chunk=data[:100])
        seen.set()
        await go_on.wait()
        yield pb.PublishVersionRequest(chunk=data[100:])

    async with open_channel(process.address, None) as channel:
        stub = RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = stub.PublishVersion(slowly())
        await seen.wait()
        await stub.ListModels(pb.ListModelsRequest(parent="tenants/-"))  # the upload is ahead of it on the connection
        stopping = asyncio.ensure_future(process.terminate())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        go_on.set()
        assert (await call).version.state == pb.VERSION_STATE_LIVE
        await stopping


async def test_tls(make: Make, tmp_path: Path) -> None:
    tls = make_tls(tmp_path)
    assert tls.cert is not None
    assert tls.key is not None
    process = make("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-ca", str(tls.ca), tls=tls)
    await process.start()
    async with open_channel(process.address, tls) as channel:
        assert (await publish(channel)).published_by == "scoremesh"


async def test_it_serves_what_it_can_without_etcd(make: Make) -> None:
    process = make("--etcd", f"127.0.0.1:{free_port()}")
    await process.start()
    async with open_channel(process.address, None) as channel:
        stub = RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        assert list((await stub.ListModels(pb.ListModelsRequest(parent="tenants/-"))).models) == []


async def test_settings_that_can_not_be(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match=r"can't listen on 127\.0\.0\.1"):
            await make(port=taken.getsockname()[1]).start()
    with pytest.raises(UnavailableError, match="is not a store"):
        await make("--store", "ftp://x").start()
    for arguments in ([], ["--store", "file:///x", "--uploads", "0"], ["--store", "file:///x", "--admissions", "x"]):
        with pytest.raises(SystemExit) as caught:
            parse(arguments)
        assert caught.value.code == 2
