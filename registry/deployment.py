"""Builds a registry from its settings: store, etcd, admission, and all that changes models; and serves it.

Contract: the one place where the parts are put together, for `python -m registry` and for a command that is its own
registry. Leaving the context closes all of it, in the reverse order; changes that are under way have `drain_s` to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from registry.alias_moves import AliasMoves
from registry.errors import ArtifactRejectedError
from registry.etcd import Etcd, TlsFiles
from registry.keys import Keys
from registry.ledger import Ledger
from registry.library import Library
from registry.offer import Admit, Admitted, Offer
from registry.probing import ProbePool
from registry.publish import Publisher
from registry.purge import purge_by
from registry.quarantine import Quarantine
from registry.rollout.bulk import Bulk
from registry.rollout.guard import Guard
from registry.rollout.prepare import Preparer
from registry.rollout.scorers import ScorerCalls
from registry.service.applications import Applications
from registry.service.deletions import Deletions
from registry.service.models import Models
from registry.service.quarantine import Packages
from registry.service.rebuilds import Rebuilds
from registry.service.rollouts import Rollouts
from registry.service.schemas import SCHEMA_LIMIT_BYTES, schema_bytes
from registry.service.server import serving
from registry.service.servicer import Servicer
from registry.service.tenants import Tenants
from registry.service.uploads import Uploads
from registry.service.versions import Versions
from registry.service.work import Work
from registry.store_urls import open_store

_log = logging.getLogger(__name__)
_GUARD_PAUSE_S = 5.0


class Deployment:
    """One registry. `store`: see `registry.store_urls.open_store`. `etcd`: host:port of each endpoint. `tls`: the
    certificate that it serves with and shows to scorers. `admit`: tries files, None for processes of its own, so many
    as `admissions`. `uploads`: taken in at once. `published_by`: noted in manifests for callers without a certificate.
    """

    def __init__(
        self,
        *,
        store: str,
        cluster: str,
        etcd: Sequence[str],
        etcd_user: str = "",
        etcd_password: str = "",
        etcd_tls: TlsFiles | None = None,
        tls: TlsFiles | None = None,
        published_by: str = "",
        admit: Admit | None = None,
        admissions: int = 2,
        uploads: int = 8,
        prepare_timeout_s: float = 30.0,
        guard_interval_s: float = 5.0,
        drain_s: float = 10.0,
    ) -> None:
        self._store = open_store(store)
        self._cluster = cluster
        self._etcd = (etcd, etcd_user, etcd_password, etcd_tls)
        self._tls = tls
        self._published_by = published_by
        self._admit = admit
        self._admissions = admissions
        self._uploads = uploads
        self._prepare_timeout_s = prepare_timeout_s
        self._guard_interval_s = guard_interval_s
        self._drain_s = drain_s
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            await self._open(opened)
            self._closing = opened.pop_all()
        return self

    async def _open(self, opened: AsyncExitStack) -> None:
        endpoints, user, password, etcd_tls = self._etcd
        keys = Keys(self._cluster)
        etcd = Etcd(endpoints, user=user, password=password, tls=etcd_tls)
        opened.push_async_callback(etcd.aclose)
        self.ledger = Ledger(Library(self._store), etcd, keys)
        self.calls = ScorerCalls(etcd, keys, tls=self._tls)
        opened.push_async_callback(self.calls.aclose)
        self.quarantine = Quarantine(etcd, keys)
        self.preparer = Preparer(self.calls, self._prepare_timeout_s)
        self.moves = AliasMoves(self.ledger, self.preparer.prepare)
        self.guard = Guard(self.ledger, self.moves, self.calls, self._guard_interval_s)
        self._admit = self._admit or (await opened.enter_async_context(ProbePool(self._admissions))).admit
        work = Work()
        opened.push_async_callback(work.aclose, self._drain_s)
        self.servicer = self._servicer(work)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def _servicer(self, work: Work) -> Servicer:
        ledger = self.ledger
        return Servicer(
            versions=Versions(ledger, self.publisher, Uploads(self._uploads), work),
            models=Models(ledger, self.moves, AliasMoves(ledger)),
            rollouts=Rollouts(ledger, self.moves, self.calls, self.guard, Bulk(ledger, self.preparer.prepare_many)),
            tenants=Tenants(ledger),
            applications=Applications(ledger),
            packages=Packages(self.quarantine),
            deletions=Deletions(ledger, purge_by(self.calls)),
            rebuilds=Rebuilds(ledger),
            work=work,
            default_publisher=self._published_by,
        )

    def publisher(self, caller: str) -> Publisher:
        """Publishes in the name of a caller."""
        assert self._admit is not None  # noqa: S101 - inside the context there is one
        return Publisher(self.ledger, self.moves, _with_small_schema(self._admit), published_by=caller)

    def serving(self, address: str) -> AbstractAsyncContextManager[int]:
        """Serve on host:port or unix:path; gives the port. Raises OSError: it can't be bound."""
        return serving(self.servicer, address, tls=self._tls, drain_s=self._drain_s)

    @contextlib.asynccontextmanager
    async def guarding(self) -> AsyncIterator[None]:
        """Take back canaries that do harm, inside this context. Whatever stops the guard, it begins anew."""
        task = asyncio.create_task(_keep_guarding(self.guard))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _with_small_schema(admit: Admit) -> Admit:
    """The same, but refuses a model whose schema is too large to be told to callers and kept by scorers."""

    async def admit_small(offer: Offer) -> Admitted:
        admitted = await admit(offer)
        nbytes = schema_bytes(admitted.schema)
        if nbytes > SCHEMA_LIMIT_BYTES:
            raise ArtifactRejectedError(f"the model's schema has {nbytes} bytes as JSON: over {SCHEMA_LIMIT_BYTES}")
        return admitted

    return admit_small


async def _keep_guarding(guard: Guard) -> None:
    while True:
        try:
            await guard.run()
        except Exception:
            _log.exception("the guard of the rollouts stopped; it begins anew")
        await asyncio.sleep(_GUARD_PAUSE_S)
