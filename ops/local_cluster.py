"""A whole cluster on this machine: etcd, an object store in a directory, scorers, routers and a registry, each its own
process.

Contract: inside `async with LocalCluster(...)` every router says SERVING and knows every scorer. Leaving it stops the
registry and the routers, then the scorers, then etcd, each in order; what was started dies with us even if we are
killed. Nothing listens on another address than 127.0.0.1. Data lie in the directory: etcd's, `store`, each scorer's
disk tier under `cache`, and `logs`; a cluster started again on the directory has the models of before.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.etcd_server import EtcdServer
from ops.server_process import FrontProcess, ScorerProcess
from ops.task_group import task_group
from registry.etcd import Etcd, TlsFiles
from registry.keys import Keys


class LocalCluster:
    """See the module.

    `directory`: where data and logs go. `etcd`: endpoints of an etcd that runs already; none: one of our own.
    `store`: URL of the object store; "": a directory of ours. `router_port`: of the first router, the next ones take
    the ports after it; 0: free ones. `capacity_mib`: of each scorer, for models; `memory`: instead of it, what
    each scorer may take in all. `front`: forces one of the gRPC
    servers. `tls`: certificate of every server and of every caller; it must name 127.0.0.1. `workers`: processes of
    each scorer. `scorer_args`, `router_args`: more arguments of their command lines. `registry`: whether there
    is one; `registry_port`: its port, 0: a free one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        scorers: int = 3,
        routers: int = 1,
        etcd: Sequence[str] = (),
        store: str = "",
        cluster: str = "default",
        router_port: int = 0,
        capacity_mib: float = 256,
        memory: str = "",
        front: str = "",
        tls: TlsFiles | None = None,
        workers: int = 1,
        scorer_args: Sequence[str] = (),
        router_args: Sequence[str] = (),
        registry: bool = False,
        registry_port: int = 0,
    ) -> None:
        self.directory = directory.absolute()
        self.cluster = cluster
        self.keys = Keys(cluster)
        self.store_url = store or f"file://{self.directory / 'store'}"
        self.etcd_server = None if etcd else EtcdServer(self.directory / "etcd")
        self.routers: list[FrontProcess] = []
        self.scorers: list[ScorerProcess] = []
        self._given_etcd = list(etcd)
        self._sizes = (scorers, routers)
        self._router_port = router_port
        self._tls = tls
        self._workers = workers
        self._server_args = ["--cluster", cluster, "--front", front, *_tls_arguments(tls)]
        room = ["--memory", memory] if memory else ["--capacity-mib", f"{capacity_mib:g}"]
        self._scorer_args = ["--store", self.store_url, *room, *scorer_args]
        self._router_args = list(router_args)
        self.registry: FrontProcess | None = None
        self._registry_port = registry_port if registry else None

    @property
    def etcd_endpoints(self) -> list[str]:
        """Where etcd is."""
        return [self.etcd_server.endpoint] if self.etcd_server else self._given_etcd

    @property
    def router_addresses(self) -> list[str]:
        """Where to send requests: host:port of every router that was started."""
        return [router.address for router in self.routers]

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            UnavailableError: a part of it did not come up; the text has its last words.
        """
        scorers, routers = self._sizes
        for folder in ("logs", "cache"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        if self.etcd_server:
            self.etcd_server.start()
        self.etcd = Etcd(self.etcd_endpoints)
        try:
            self.scorers = [self._new_scorer(number) for number in range(scorers)]
            for scorer in self.scorers:
                await scorer.begin()
            await _all(scorer.wait_announced() for scorer in self.scorers)
            # Only now, so that a router's first view of the members has all of them.
            self.routers = [self._new_router(number) for number in range(routers)]
            if self._registry_port is not None:
                self.registry = self._new_registry(self._registry_port)
            await _all(server.start() for server in self._fronts())
        except BaseException:
            await self.aclose()
            raise
        return self

    def ended(self) -> list[tuple[str, int, Path]]:
        """Name, exit status (-N after signal N) and log of every process that has ended."""
        servers = [(server.name, server.process) for server in (*self._fronts(), *self.scorers)]
        if self.etcd_server:
            servers.append(("etcd", self.etcd_server.process))
        return [(name, child.exit_code, child.log_path) for name, child in servers if child.exit_code is not None]

    async def start_router(self) -> FrontProcess:
        """One more router, ready. Raises UnavailableError when it does not come up."""
        router = self._new_router(len(self.routers))
        self.routers.append(router)
        await router.start()
        return router

    async def start_scorer(self) -> ScorerProcess:
        """One more scorer, announced. Raises UnavailableError when it does not come up."""
        scorer = self._new_scorer(len(self.scorers))
        self.scorers.append(scorer)
        await scorer.start()
        return scorer

    async def aclose(self) -> None:
        """Stop what runs: routers, scorers, etcd. May be called twice. If cancelled, it kills what still runs."""
        try:
            await _all(server.terminate() for server in self._fronts() if server.was_started)
            await _all(scorer.terminate() for scorer in self.scorers if scorer.was_started)
        finally:
            for server in (*self._fronts(), *self.scorers):
                if server.was_started:
                    server.kill()
            if self.etcd_server:
                self.etcd_server.terminate()
            await self.etcd.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _new_scorer(self, number: int) -> ScorerProcess:
        scorer_id = f"local-{number}"
        arguments = [*self._common(), *self._scorer_args, "--cache-dir", str(self.directory / "cache" / scorer_id)]
        return ScorerProcess(scorer_id, arguments, self._log(scorer_id), self.etcd, self.keys, workers=self._workers)

    def _new_router(self, number: int) -> FrontProcess:
        name = f"router-{number}"
        port = self._router_port + number if self._router_port else 0
        arguments = [*self._common(), *self._router_args]
        return FrontProcess(name, "router", arguments, self._log(name), port=port, tls=self._tls)

    def _new_registry(self, port: int) -> FrontProcess:
        etcd = ",".join(self.etcd_endpoints)
        arguments = ["--store", self.store_url, "--etcd", etcd, "--cluster", self.cluster, *_tls_arguments(self._tls)]
        return FrontProcess("registry", "registry", arguments, self._log("registry"), port=port, tls=self._tls)

    def _fronts(self) -> list[FrontProcess]:
        """The routers, and the registry where there is one."""
        return [*self.routers, *([self.registry] if self.registry else [])]

    def _common(self) -> list[str]:
        return [*self._server_args, "--etcd", ",".join(self.etcd_endpoints)]

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    async with task_group() as tasks:
        for work in works:
            tasks.create_task(work)


def _tls_arguments(tls: TlsFiles | None) -> list[str]:
    if tls is None or tls.cert is None or tls.key is None:
        return []
    authority = [] if tls.ca == Path() else ["--tls-ca", str(tls.ca)]
    return ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key), *authority]
