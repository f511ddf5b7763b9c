"""A scorer as one would write it first: models leave memory least recently used first, loads begin first come, first
served. `python -m bench.plain_loads` takes the arguments of a scorer. The benchmark of fairness measures it to show
what fairness is worth; nothing of the product imports this.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, OrderedDict, deque
from math import inf

from registry.process import end_with
from scorer import __main__ as scorer
from scorer import cache, loads
from scorer.resident import Resident

_LOADS_AT_ONCE = 8


class LeastRecentlyUsed:
    """Takes the place of `scorer.residents.Residents`; knows no tenants and no demand."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._values: OrderedDict[str, Resident] = OrderedDict()
        self._nbytes: dict[str, int] = {}  # Also of what is being loaded.
        self._pins: Counter[str] = Counter()

    @property
    def used_bytes(self) -> int:
        return sum(self._nbytes.values())

    def __contains__(self, key: str) -> bool:
        return key in self._nbytes

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Resident | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def find(self, key: str) -> Resident | None:
        return self._values.get(key)

    def reserve(self, key: str, nbytes: int, **_whose: object) -> list[Resident] | None:
        over = self.used_bytes + nbytes - self.capacity_bytes
        victims = []
        for each in self._values:
            if over <= 0:
                break
            if not self._pins[each]:
                victims.append(each)
                over -= self._nbytes[each]
        if over > 0:
            return None
        self._nbytes[key] = nbytes
        return [resident for each in victims if (resident := self.remove(each)) is not None]

    def missed(self, _key: str) -> None: ...

    def fill(self, key: str, value: Resident, nbytes: int, **_cost: object) -> None:
        self._values[key], self._nbytes[key] = value, nbytes

    def remove(self, key: str) -> Resident | None:
        del self._nbytes[key]
        self._pins.pop(key, None)
        return self._values.pop(key, None)

    def pin(self, key: str) -> None:
        self._pins[key] += 1

    def unpin(self, key: str) -> None:
        self._pins[key] -= 1

    def is_pinned(self, key: str) -> bool:
        return self._pins[key] > 0

    def items(self) -> list[tuple[str, Resident]]:
        return list(self._values.items())

    def clear(self) -> list[Resident]:
        return [resident for key in list(self._nbytes) if (resident := self.remove(key)) is not None]

    def set_limits(self, _tenant: str, **_limits: int) -> list[Resident]:
        return []

    def used_by(self, _tenant: str) -> int:
        return 0

    def resize(self, capacity_bytes: int, _now: float) -> list[Resident]:
        self.capacity_bytes = capacity_bytes
        return []

    def evictable_in_s(self, _nbytes: int, _tenant: str, _now: float) -> float:
        return inf


class Unlimited:
    """Takes the place of `scorer.intake.Intake`."""

    def add(self, *_load: object) -> None: ...

    def wait_s(self, *_load: object, **_room: object) -> float:
        return 0.0


class FirstComeFirstServed:
    """Takes the place of `scorer.load_queue.LoadQueue`."""

    def __init__(self, _at_once: int) -> None:
        self._queued: deque[str] = deque()
        self._begun: set[str] = set()
        self._parked: set[str] = set()

    def __contains__(self, package: str) -> bool:
        return package in self._queued

    def push(self, package: str, *_cost: object, **_priority: object) -> list[str]:
        self._queued.append(package)
        return self._begin()

    def finish(self, package: str, _took_us: float = 0.0) -> list[str]:
        self._begun.discard(package)
        self._parked.discard(package)
        if package in self._queued:
            self._queued.remove(package)
        return self._begin()

    def park(self, package: str) -> list[str]:
        self._begun.remove(package)
        self._parked.add(package)
        return self._begin()

    def unpark(self, package: str) -> list[str]:
        self._parked.remove(package)
        self._queued.appendleft(package)
        return self._begin()

    def upgrade(self, _package: str) -> list[str]:
        return []

    def wait_us(self, _package: str) -> float:
        return 0.0

    def set_weight(self, _tenant: str, _weight: float) -> None: ...

    def slow(self, _tenant: str, _slowed: bool) -> None: ...

    def _begin(self) -> list[str]:
        begun = [self._queued.popleft() for _ in range(min(_LOADS_AT_ONCE - len(self._begun), len(self._queued)))]
        self._begun.update(begun)
        return begun


def main() -> None:
    if "MALLOC_ARENA_MAX" not in os.environ:  # As a scorer does, which would become a plain scorer here.
        os.environ["MALLOC_ARENA_MAX"] = "2"
        os.execv(sys.executable, [sys.executable, "-m", "bench.plain_loads", *sys.argv[1:]])  # noqa: S606
    vars(cache)["Residents"] = LeastRecentlyUsed
    vars(cache)["Intake"] = Unlimited
    vars(loads)["LoadQueue"] = FirstComeFirstServed
    scorer.main()


if __name__ == "__main__":
    end_with(main)
