"""A registry behind a real socket, with the calls and checks that its tests share."""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import lightgbm
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from ops.etcd_server import EtcdServer
from registry.artifacts import ArtifactStore
from registry.deployment import Deployment
from registry.keys import Keys
from registry.model import ModelRef
from registry.offer import Admit
from registry.store_urls import open_store
from scoremesh.registry.v1 import registry_pb2 as pb
from scoremesh.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests.integration.publishing import constant_admit

REF = ModelRef("acme", "churn")
MODEL = "tenants/acme/models/churn"
V = f"{MODEL}/versions"


class Rig(NamedTuple):
    """A registry that serves, and what it stands on."""

    deployment: Deployment
    address: str
    stub: RegistryServiceStub
    store: ArtifactStore
    folder: Path
    cluster: str
    keys: Keys

    async def publish(self, data: bytes, parent: str = MODEL, **spec: Any) -> pb.Version:
        """Upload a file; live unless told otherwise."""
        wanted = pb.PublishSpec(
            **{"parent": parent, "aliases": ["live"], "sha256": hashlib.sha256(data).hexdigest()} | spec
        )
        version: pb.Version = (await self.stub.PublishVersion(parts(wanted, data))).version
        return version

    async def model(self, name: str = MODEL) -> pb.Model:
        """As GetModel shows it."""
        model: pb.Model = (await self.stub.GetModel(pb.GetModelRequest(name=name))).model
        return model

    async def objects(self) -> list[str]:
        """Paths of all objects in the store."""
        return [path for path, _ in await self.store.list_all("")]


@asynccontextmanager
async def running(
    folder: Path, server: EtcdServer, admit: Admit | None = constant_admit, **more: Any
) -> AsyncIterator[Rig]:
    """A registry on a store in `folder`. `admit`: None for the real one."""
    cluster = f"test-{uuid.uuid4().hex}"
    url = f"file://{folder}/store"
    async with (
        Deployment(store=url, cluster=cluster, etcd=[server.endpoint], admit=admit, **more) as deployment,
        deployment.serving("127.0.0.1:0") as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        yield Rig(deployment, f"127.0.0.1:{port}", stub, open_store(url), folder, cluster, Keys(cluster))


async def parts(
    spec: pb.PublishSpec, data: bytes, chunk_bytes: int = 1 << 20
) -> AsyncIterator[pb.PublishVersionRequest]:
    """The messages of an upload."""
    yield pb.PublishVersionRequest(spec=spec)
    for first in range(0, len(data), chunk_bytes):
        yield pb.PublishVersionRequest(chunk=data[first : first + chunk_bytes])


def onnx_like(content: str) -> bytes:
    """A file that begins like an ONNX model, which `constant_admit` takes."""
    return b"\x08\x08\x12\x04test" + content.encode()


@functools.cache
def real_model(seed: int = 1, columns: int = 3) -> bytes:
    """A small LightGBM model, another one for each seed."""
    rows = np.random.default_rng(seed).normal(size=(200, columns))
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    text: str = lightgbm.train(settings, lightgbm.Dataset(rows, rows[:, 0] * seed), 3).model_to_string()
    return text.encode()


async def refused(call: Awaitable[object], code: grpc.StatusCode, reason: str) -> str:
    """Check how a call is refused, and that its details say the same; returns the text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(bytes(metadata["grpc-status-details-bin"]))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (error.code(), info.reason) == (code, reason), error.details()
    assert (status.code, status.message, info.domain) == (code.value[0], error.details(), "scoremesh")
    return error.details() or ""


async def all_pages(
    method: Callable[[Any], Awaitable[Any]], request: Any, field: str, most: int = 1000
) -> list[list[Any]]:
    """The entries of each page of a list."""
    pages = []
    for _ in range(most):
        answer = await method(request)
        pages.append(list(getattr(answer, field)))
        if not answer.next_page_token:
            return pages
        request.page_token = answer.next_page_token
    raise AssertionError("the list has no end")


def names(entries: Iterable[Any]) -> list[str]:
    """Resource names of entries."""
    return [entry.name for entry in entries]
