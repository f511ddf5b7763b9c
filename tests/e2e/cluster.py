"""Routers and scorers as real processes on free ports, for tests that ask them, stop them and kill them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import AsyncClient
from ops.etcd_server import EtcdServer
from ops.process import ChildProcess
from registry.etcd import TlsFiles

ROOT = Path(__file__).parents[2]
_LISTENING = re.compile(r"^(?:router|scorer (?P<id>\S+)) listening on (?P<address>\S+)$", re.MULTILINE)
_MEMBERS = re.compile(r"membership epoch \d+: (\d+) members")
_ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}",
    "AWS_ACCESS_KEY_ID": "scoremesh",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
}


def wait_until(condition: Callable[[], bool], what: str = "", timeout_s: float = 30.0) -> None:
    """Wait until something becomes true; fails loudly when it doesn't."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited in vain for {what or condition}")
        time.sleep(0.02)


class Server:
    """One router or scorer."""

    def __init__(self, name: str, arguments: list[str], log_path: Path, credentials: grpc.ChannelCredentials | None):
        self.name = name
        self._arguments = arguments
        self._log_path = log_path
        self._credentials = credentials
        self._start()

    def _start(self) -> None:
        self._log_path.unlink(missing_ok=True)
        argv = [sys.executable, "-m", *self._arguments]
        self.process = ChildProcess(argv, self._log_path, _ENVIRONMENT)

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def id(self) -> str:
        """A scorer's id of a member."""
        return self._listening()["id"]

    @property
    def address(self) -> str:
        return self._listening()["address"]

    @property
    def members(self) -> int:
        """How many members a router knew when it last told."""
        told = _MEMBERS.findall(self.log())
        return int(told[-1]) if told else -1

    def _listening(self) -> re.Match[str]:
        def listens() -> bool:
            assert self.process.exit_code is None, f"{self.name} ended: {self.log()}"
            return _LISTENING.search(self.log()) is not None

        wait_until(listens, f"{self.name} to listen")
        found = _LISTENING.search(self.log())
        assert found is not None
        return found

    def health(self, timeout_s: float = 5.0) -> str:
        """SERVING, NOT_SERVING, or the name of the status with which the call failed."""
        with self._channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            except grpc.RpcError as error:
                return str(error.code().name)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.address)
        return grpc.secure_channel(self.address, self._credentials)

    def wait_health(self, wanted: str = "SERVING") -> None:
        wait_until(lambda: self.health() == wanted, f"{self.name} to be {wanted}; its log: {self.log()[-3000:]}")

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.process.send(signal.SIGTERM)

    def wait_end(self) -> int:
        wait_until(lambda: self.process.exit_code is not None, f"{self.name} to end")
        assert self.process.exit_code is not None
        return self.process.exit_code

    def restart(self) -> None:
        """Start it again after its end, with the same arguments."""
        self.process.kill()
        self._start()


class Cluster:
    """Servers that share etcd, a store and a cluster's name. `front`: native or aio; `tls`: for every server."""

    def __init__(
        self, directory: Path, etcd: EtcdServer, store_url: str, *, name: str, front: str, tls: TlsFiles | None = None
    ) -> None:
        self.directory, self.etcd, self.store_url, self.name = directory, etcd, store_url, name
        self.scorers: list[Server] = []
        self.routers: list[Server] = []
        self._tls = tls
        self._common = ["--etcd", etcd.endpoint, "--cluster", name, "--front", front]
        self.credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            assert tls.cert is not None
            assert tls.key is not None
            files = {"--tls-cert": tls.cert, "--tls-key": tls.key, "--tls-ca": tls.ca}
            self._common += [str(word) for pair in files.items() for word in pair]
            self.credentials = grpc.ssl_channel_credentials(
                tls.ca.read_bytes(), tls.key.read_bytes(), tls.cert.read_bytes()
            )

    def add_scorer(self, *more: str, lease_s: float = 5.0) -> Server:
        name = f"scorer{len(self.scorers)}"
        arguments = ["scorer", "--listen", "127.0.0.1:0", "--host", name, "--store", self.store_url]
        arguments += ["--cache-dir", str(self.directory / name), "--lease-s", str(lease_s), "--drain-s", "8"]
        arguments += [] if "--workers" in more else ["--workers", "0"]
        self.scorers.append(self._server(name, [*arguments, *self._common, *more]))
        return self.scorers[-1]

    def add_router(self, *more: str) -> Server:
        name = f"router{len(self.routers)}"
        arguments = ["router", "--listen", "127.0.0.1:0", "--drain-s", "8", *self._common, *more]
        self.routers.append(self._server(name, arguments))
        return self.routers[-1]

    def _server(self, name: str, arguments: list[str]) -> Server:
        return Server(name, arguments, self.directory / f"{name}.log", self.credentials)

    def start(self, scorers: int = 3, routers: int = 1) -> Cluster:
        """Start, and wait until every router knows every scorer."""
        for _ in range(scorers):
            self.add_scorer()
        for _ in range(routers):
            self.add_router()
        return self.wait_ready()

    def wait_ready(self) -> Cluster:
        for server in (*self.scorers, *self.routers):
            server.wait_health()
        self.wait_members(len(self.scorers))
        return self

    def wait_members(self, count: int) -> None:
        for router in self.routers:
            wait_until(lambda: router.members == count, f"{router.name} to know {count} members")  # noqa: B023

    def client(self, *servers: Server) -> AsyncClient:
        """A client of all routers, or of these servers."""
        addresses = [server.address for server in servers or self.routers]
        if self.credentials is None:
            return AsyncClient(addresses)
        return AsyncClient(addresses, credentials=self.credentials)

    def channel(self, server: Server | None = None) -> grpc.aio.Channel:
        """A plain channel to one server; the first router unless another one is named."""
        address = (server or self.routers[0]).address
        if self.credentials is None:
            return grpc.aio.insecure_channel(address)
        return grpc.aio.secure_channel(address, self.credentials)

    def stop(self) -> None:
        """Kill what still runs."""
        for server in (*self.routers, *self.scorers):
            server.process.kill()
