"""Making scorers forget what was deleted.

Contract: a `Purge` takes a tenant ("" for none: then only what is named goes), packages and artifacts (lower-case
sha256), asks every scorer to drop its copies of them and all else that it knows to be the tenant's, from memory and
from disk, and says who didn't answer. It never fails because a scorer does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from registry.rollout.scorers import PURGE, Answered, ScorerCalls
from scoremesh.scorer.v1 import scorer_pb2 as pb

_NAMES_A_CALL = 20_000


class Purged(NamedTuple):
    """Copies that went from scorers' memory and disks, and the members that may still have some."""

    resident_models: int = 0
    disk_files: int = 0
    unreached: tuple[str, ...] = ()


Purge = Callable[[str, Sequence[str], Sequence[str]], Awaitable[Purged]]


async def no_scorers(_tenant: str, _packages: Sequence[str], _artifacts: Sequence[str]) -> Purged:
    """For a cluster without scorers."""
    return Purged()


def purge_by(calls: ScorerCalls, timeout_s: float = 30.0) -> Purge:
    """Asks all members that etcd announces, with so many names in a call that it stays within a message."""

    async def purge(tenant: str, packages: Sequence[str], artifacts: Sequence[str]) -> Purged:
        resident_models = disk_files = 0
        unreached: set[str] = set()
        for begin in range(0, max(len(packages), len(artifacts), 1), _NAMES_A_CALL):
            part = slice(begin, begin + _NAMES_A_CALL)
            request = pb.PurgeRequest(tenant=tenant, packages=packages[part], artifacts=artifacts[part])
            for reply in await calls.ask(PURGE, request, timeout_s):
                if isinstance(reply, Answered):
                    resident_models += reply.answer.resident_models
                    disk_files += reply.answer.disk_files
                else:
                    unreached.add(reply.member.id)
        return Purged(resident_models, disk_files, tuple(sorted(unreached)))

    return purge
