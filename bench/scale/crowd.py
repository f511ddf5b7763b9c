"""Members that are announced by one process, for clusters of more members than this machine can run.

    python -m bench.scale.crowd ETCD CLUSTER COUNT ADDRESS,ADDRESS,...

Each is a real announcement under a lease of its own, kept alive as a scorer keeps its own, but its address is that of
one of the scorers that do run: a router links to every member and sends each its models, and gets real answers. Says
"ready" when etcd has all of them; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from registry.etcd import Etcd
from registry.keys import Keys
from registry.members import Announcement
from registry.model import Member

ZONES = 3


def simulated(number: int, addresses: list[str], capacity_bytes: int = 256 << 20) -> Member:
    """A member of this number, on a host of its own, in one of three zones."""
    address = addresses[number % len(addresses)]
    name = f"sim-{number:04d}"
    return Member(name, address, f"host-{name}", f"zone-{number % ZONES}", "default", capacity_bytes, uuid.uuid4().hex)


async def announce(etcd: Etcd, keys: Keys, count: int, addresses: list[str]) -> list[Announcement]:
    """Announce so many, and wait until etcd has them."""
    made = [Announcement(etcd, keys, simulated(number, addresses), lambda _: None) for number in range(count)]
    for each in made:
        each.start()
    async with asyncio.timeout(60):
        for each in made:
            await each.wait_announced()
    return made


async def main() -> None:
    """Run."""
    endpoint, cluster, count, addresses = sys.argv[1:]
    etcd = Etcd([endpoint])
    announced = await announce(etcd, Keys(cluster), int(count), addresses.split(","))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(each.withdraw() for each in announced))
    await etcd.aclose()


if __name__ == "__main__":
    asyncio.run(main())
