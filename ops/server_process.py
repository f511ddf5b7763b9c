"""One router, registry or scorer of a local cluster as a process: start, wait for it, freeze, kill, start again.

Contract: the process dies with us (see `ops.process`), writes to one log file over all its starts, and after `restart`
is back under the same id and address. `start` returns when others see the server: a router or registry says SERVING, a
scorer is announced in etcd. Waiting never blocks the event loop and may be cancelled; then the process runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from ops.member_list import list_members
from ops.process import ChildProcess
from registry.errors import UnavailableError
from registry.etcd import Etcd, TlsFiles
from registry.keys import Keys
from registry.model import Member, MemberState
from registry.process import PARENT_VARIABLE

START_TIMEOUT_S = 60.0
# A scorer with workers may take 10 s to hand over, three times its own 10 s to drain, and 5 s more.
STOP_GRACE_S = 50.0
_POLL_S = 0.02
_LISTENING = re.compile(rb"^(?:router|registry) listening on (\S+)$", re.MULTILINE)


class ServerProcess:
    """What all servers have in common: the process. `arguments`: of `python -m <module>`."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = [sys.executable, "-m", module, *arguments]
        self._process: ChildProcess | None = None
        self._log_start = 0

    @property
    def process(self) -> ChildProcess:
        """The process of the last start. Raises UnavailableError before the first one."""
        if self._process is None:
            raise UnavailableError(f"{self.name} is not started")
        return self._process

    @property
    def was_started(self) -> bool:
        """Whether there ever was a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N after signal N."""
        return self.process.exit_code

    def spawn(self, *more_arguments: str) -> None:
        """Start without waiting; in the main thread (see ChildProcess)."""
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = ChildProcess([*self._argv, *more_arguments], self.log_path, _environment())

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()

    def stop(self) -> None:
        """SIGSTOP: its connections stay open, and it says nothing."""
        self.process.send(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        self.process.send(signal.SIGCONT)

    async def terminate(self, grace_s: float = STOP_GRACE_S) -> None:
        """SIGTERM, wait until it has drained and ended, SIGKILL after `grace_s`. Fine on one that has ended."""
        self.process.send(signal.SIGTERM)
        self.cont()
        try:
            async with asyncio.timeout(grace_s):
                while self.exit_code is None:
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            self.kill()

    def log_since_start(self) -> bytes:
        """What it wrote since its last start."""
        return self.log_path.read_bytes()[self._log_start :]

    def check_alive(self) -> None:
        """Raise UnavailableError, with the end of the log, if it has ended."""
        if self.exit_code is not None:
            raise UnavailableError(f"{self.name} ended with status {self.exit_code}: {self._last_words()}")

    def _last_words(self) -> str:
        text = self.log_since_start().decode(errors="replace").strip()
        return text.rpartition("\n")[2] or f"see {self.log_path}"


class FrontProcess(ServerProcess):
    """A router or a registry: `module` says which. `port` 0: any free one at the first start. `tls`: what callers show
    and trust, None for plain text.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log_path: Path,
        *,
        port: int = 0,
        tls: TlsFiles | None = None,
    ) -> None:
        super().__init__(name, module, arguments, log_path)
        self.address = f"127.0.0.1:{port}"
        self._tls = tls

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start, and wait until it says SERVING.

        Raises:
            UnavailableError: it ended (the text has its last words) or isn't ready in time.
        """
        self.spawn("--listen", self.address)
        async with _time_limit(timeout_s, self):
            self.address = await self._listening()
            async with open_channel(self.address, self._tls) as channel:
                while not await _is_serving(channel):
                    self.check_alive()
                    await asyncio.sleep(_POLL_S)

    async def restart(self) -> None:
        """Stop it in order if it runs, then start it on the same address."""
        await self.terminate()
        await self.start()

    async def _listening(self) -> str:
        while not (found := _LISTENING.search(self.log_since_start())):
            self.check_alive()
            await asyncio.sleep(_POLL_S)
        return found[1].decode()


class ScorerProcess(ServerProcess):
    """A scorer. With several workers it's their supervisor: it has one member for each, `id`-0, `id`-1 and so on, and
    `address` is that of the first. `module`: what is run in place of `scorer`, with its arguments.
    """

    def __init__(
        self,
        scorer_id: str,
        arguments: Sequence[str],
        log_path: Path,
        etcd: Etcd,
        keys: Keys,
        *,
        workers: int = 1,
        module: str = "scorer",
    ) -> None:
        # A lone worker needs no supervisor here, and without one a signal to the process is one to the member.
        more = ["--id", scorer_id, "--host", scorer_id, "--workers", str(workers if workers > 1 else 0)]
        super().__init__(scorer_id, module, [*arguments, *more], log_path)
        self.id = scorer_id
        self.address = "127.0.0.1:0"
        self.member_ids = [scorer_id] if workers == 1 else [f"{scorer_id}-{worker}" for worker in range(workers)]
        self._etcd, self._keys = etcd, keys
        self._before: Mapping[str, Member] = {}

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start, and wait until every worker is announced as ready.

        Raises:
            UnavailableError: it ended (the text has its last words) or isn't announced in time.
        """
        await self.begin()
        await self.wait_announced(timeout_s)

    async def begin(self) -> None:
        """Start without waiting; in the main thread."""
        self._before = await list_members(self._etcd, self._keys)
        # Several workers can't share the port that the first one was given.
        self.spawn("--listen", self.address if len(self.member_ids) == 1 else "127.0.0.1:0")

    async def wait_announced(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every worker of the last start is announced as ready. Errors as of `start`."""
        async with _time_limit(timeout_s, self):
            while not self._is_announced(members := await list_members(self._etcd, self._keys)):
                self.check_alive()
                await asyncio.sleep(_POLL_S)
            self.address = members[self.member_ids[0]].address

    async def restart(self) -> None:
        """Stop it in order if it runs, then start it with the same id, disk tier and, if alone, address."""
        await self.terminate()
        await self.start()

    def _is_announced(self, members: Mapping[str, Member]) -> bool:
        """An announcement of an earlier start, which outlives a crash until its lease ends, doesn't count."""
        ours = [(members.get(member_id), self._before.get(member_id)) for member_id in self.member_ids]
        return all(
            now is not None
            and now.state is MemberState.READY
            and (before is None or now.incarnation != before.incarnation)
            for now, before in ours
        )


def open_channel(address: str, tls: TlsFiles | None) -> grpc.aio.Channel:
    """A channel in plain text, or with TLS against the CA of `tls` and with its certificate."""
    if tls is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, tls_credentials(tls))


def tls_credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """How a caller trusts and shows the certificates of a local cluster."""
    pair = (tls.key.read_bytes(), tls.cert.read_bytes()) if tls.cert and tls.key else (None, None)
    return grpc.ssl_channel_credentials(tls.ca.read_bytes(), *pair)


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextlib.asynccontextmanager
async def _time_limit(timeout_s: float, server: ServerProcess) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        text = f"{server.name} is not ready after {timeout_s:g} s; see {server.log_path}"
        raise UnavailableError(text) from error


def _environment() -> dict[str, str]:
    """Ours, with imports that don't depend on where we are, and with us as the parent to die with."""
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", PARENT_VARIABLE: str(os.getpid())}
