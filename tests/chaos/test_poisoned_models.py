"""Models that crash or hang the process that scores them: it comes back, and none loads such a model any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from client import AsyncClient, ScoreError
from ops.local_cluster import LocalCluster
from ops.member_list import list_members
from registry.model import Member, ModelRef
from registry.quarantine import Quarantine, quarantined
from tests.chaos.poisons import GOOD, POISONS, ROWS, publish_poisons
from tests.e2e.cluster import wait_until
from tests.e2e.command import scoremesh

_TIMEOUT_S = 60.0


class Poisoned:
    """Two workers of one supervisor, a router and a registry, with one good model and all that are not."""

    def __init__(self, local: LocalCluster, packages: dict[ModelRef, str]) -> None:
        self.local = local
        self.packages = packages
        self.quarantine = Quarantine(local.etcd, local.keys)

    async def members(self) -> dict[str, Member]:
        return dict(await list_members(self.local.etcd, self.local.keys))

    async def score(self, ref: ModelRef, address: str = "") -> int:
        """How many rows were scored. `address`: of one scorer, "" for the router."""
        async with AsyncClient([address or self.local.router_addresses[0]]) as client:
            return len((await client.score(*ref, ROWS[:3], timeout_s=10)).values)

    async def refusal(self, ref: ModelRef, address: str = "") -> ScoreError:
        with pytest.raises(ScoreError) as refused:
            await self.score(ref, address)
        return refused.value

    async def wait_back(self, before: Member) -> None:
        """Until another process runs under a member's id; meanwhile there may be none, when a lease has ended."""
        async with asyncio.timeout(_TIMEOUT_S):
            while (now := (await self.members()).get(before.id)) is None or now.incarnation == before.incarnation:
                await asyncio.sleep(0.05)

    async def harm(self, ref: ModelRef, member_id: str, others: Member) -> None:
        """Let a model end one scorer, and see that another goes on with the good one, and that the first comes back."""
        member = (await self.members())[member_id]
        error = await self.refusal(ref, member.address)
        assert error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
        assert await self.score(GOOD, others.address) == 3
        await self.wait_back(member)

    def log(self) -> str:
        return self.local.scorers[0].log_path.read_text(errors="replace")

    async def wait_logged(self, text: str, times: int) -> None:
        """Until the workers have said something so many times together."""
        await asyncio.to_thread(wait_until, lambda: self.log().count(text) >= times, text)

    async def command(self, *arguments: str) -> str:
        registry = self.local.registry
        assert registry is not None
        environment = {"SCOREMESH_REGISTRY": registry.address}
        done = await asyncio.to_thread(scoremesh, *arguments, cwd=self.local.directory, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
async def poisoned(tmp_path: Path) -> AsyncIterator[Poisoned]:
    arguments = ["--hang-s", "2", "--drain-s", "2"]
    async with LocalCluster(tmp_path, scorers=1, workers=2, registry=True, scorer_args=arguments) as local:
        yield Poisoned(local, await publish_poisons(local.store_url, local.etcd, local.keys, tmp_path))


async def test_two_crashes_or_hangs_and_nobody_loads_it_any_more(poisoned: Poisoned) -> None:
    for name, (_, cause) in POISONS.items():
        ref = ModelRef("acme", name)
        one, other = (await poisoned.members()).values()
        await poisoned.harm(ref, one.id, other)
        assert await poisoned.quarantine.list() == [], "one crash may be bad luck"

        await poisoned.harm(ref, other.id, (await poisoned.members())[one.id])
        [record] = await poisoned.quarantine.list()
        assert record.package == poisoned.packages[ref]
        assert (record.tenant, record.model) == ref
        assert record.reason.startswith("in flight at 2 crashes: ")
        assert record.reason.count(f" {cause} at ") == 2
        assert f"scorer {one.id} " in record.reason
        assert f"scorer {other.id} " in record.reason

        await poisoned.wait_logged(f"package {record.package} is in quarantine: ", 2)
        for address in ("", *(member.address for member in (await poisoned.members()).values())):
            error = await poisoned.refusal(ref, address)
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED"), error
            assert record.reason in error.message
            assert record.until in error.message
            assert f"scoremesh quarantine lift {record.package}" in error.message
            assert await poisoned.score(GOOD, address) == 3
        assert record.package in await poisoned.command("quarantine", "ls")
        await poisoned.command("quarantine", "lift", record.package)
    assert poisoned.log().count("suspected: ") == 2 * len(POISONS)


async def test_what_is_forbidden_leaves_the_memory_and_may_come_back(poisoned: Poisoned) -> None:
    package = poisoned.packages[GOOD]
    addresses = [member.address for member in (await poisoned.members()).values()]
    assert [await poisoned.score(GOOD, address) for address in addresses] == [3, 3]

    await poisoned.quarantine.put(quarantined(package, "a try", "operator", now=datetime.now(UTC)))
    for address in addresses:
        await _until(poisoned, address, refused=True)
    await poisoned.command("quarantine", "lift", package)
    for address in addresses:
        await _until(poisoned, address, refused=False)


async def _until(poisoned: Poisoned, address: str, *, refused: bool) -> None:
    """Ask until the good model is refused, or scored."""
    async with asyncio.timeout(_TIMEOUT_S):
        while await _is_refused(poisoned, address) != refused:
            await asyncio.sleep(0.02)


async def _is_refused(poisoned: Poisoned, address: str) -> bool:
    try:
        await poisoned.score(GOOD, address)
    except ScoreError as error:
        if error.reason != "QUARANTINED":
            raise
        return True
    return False
