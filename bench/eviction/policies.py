"""What is compared: policies that are told of requests one by one, and keep what they choose within a number of bytes.

Each is made of a capacity in bytes and the trace whose models' bytes and costs it looks up, never its future. Every
model that is asked for is loaded, whatever the policy keeps of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from heapq import heappop, heappush
from typing import Protocol

from bench.eviction.traces import Trace
from scorer.residents import Residents


class Policy(Protocol):
    def __init__(self, capacity_bytes: int, trace: Trace) -> None: ...

    def ask(self, model: int, now: float) -> bool:
        """Whether it was in memory."""
        ...


class Lru:
    """The least recently used leaves."""

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._free, self._nbytes = capacity_bytes, trace.nbytes.tolist()
        self._held: OrderedDict[int, None] = OrderedDict()

    def ask(self, model: int, now: float) -> bool:
        if model in self._held:
            self._held.move_to_end(model)
            return True
        self._free -= self._nbytes[model]
        self._held[model] = None
        while self._free < 0:
            self._free += self._nbytes[self._held.popitem(last=False)[0]]
        return False


class _Greedy:
    """GreedyDual with frequency (Cherkasova, HP Labs 1998): the least L + uses * worth leaves, and L becomes that. Uses
    are counted while in memory.
    """

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._free, self._nbytes, self._worth = capacity_bytes, trace.nbytes.tolist(), self.worth(trace)
        self._least = 0.0
        self._uses: dict[int, int] = {}
        self._key: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def worth(self, trace: Trace) -> list[float]:
        raise NotImplementedError

    def ask(self, model: int, now: float) -> bool:
        is_hit = model in self._uses
        self._uses[model] = self._uses.get(model, 0) + 1
        self._key[model] = self._least + self._uses[model] * self._worth[model]
        if is_hit:
            return True
        self._free -= self._nbytes[model]
        while self._free < 0:
            self._evict()
        heappush(self._heap, (self._key[model], model))
        return False

    def _evict(self) -> None:
        while True:
            key, model = heappop(self._heap)
            if key == self._key[model]:
                break
            heappush(self._heap, (self._key[model], model))
        self._least = key
        self._free += self._nbytes[model]
        del self._uses[model], self._key[model]


class LfuDa(_Greedy):
    """Least frequently used, with dynamic ageing: the worth of all uses is the same."""

    def worth(self, trace: Trace) -> list[float]:
        return [1.0] * len(trace.nbytes)


class Gdsf(_Greedy):
    """GreedyDual-Size-Frequency: a use is worth what a load costs, by byte."""

    def worth(self, trace: Trace) -> list[float]:
        return (trace.cost_us / trace.nbytes).tolist()  # type: ignore[no-any-return]


class TinyLfu:
    """W-TinyLFU by bytes: a window of 1 % (least recently used), then a segmented main part (80 % protected); who
    leaves the window must have been asked for more often than all together that would leave for it ("aggregated
    victims", Einziger, Eytan, Friedman and Manes, 2021). Frequencies are exact, where the original has a sketch; halved
    after ten requests for each model that fits.
    """

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._nbytes = trace.nbytes.tolist()
        self._main_bytes = int(capacity_bytes * 0.99)
        self._room = {"window": capacity_bytes - self._main_bytes, "protected": int(self._main_bytes * 0.8)}
        self._parts: dict[str, OrderedDict[int, None]] = {
            part: OrderedDict() for part in ("window", "probation", "protected")
        }
        self._used: Counter[str] = Counter()
        self._where: dict[int, str] = {}
        self._counts: Counter[int] = Counter()
        self._asked, self._period = 0, 10 * max(1, int(capacity_bytes / trace.nbytes.mean()))

    def ask(self, model: int, now: float) -> bool:
        self._count(model)
        part = self._where.get(model)
        if part is None:
            self._put("window", model)
            while self._used["window"] > self._room["window"] and self._parts["window"]:
                self._admit(self._take("window"))
            return False
        if part == "probation":
            self._take(part, model)
            self._put("protected", model)
            while self._used["protected"] > self._room["protected"]:
                self._put("probation", self._take("protected"))
        else:
            self._parts[part].move_to_end(model)
        return True

    def _count(self, model: int) -> None:
        self._counts[model] += 1
        self._asked += 1
        if self._asked >= self._period:
            self._counts = Counter({each: count // 2 for each, count in self._counts.items() if count > 1})
            self._asked //= 2

    def _admit(self, model: int) -> None:
        over = self._used["probation"] + self._used["protected"] + self._nbytes[model] - self._main_bytes
        victims: list[int] = []
        for part in ("probation", "protected"):
            for victim in self._parts[part]:
                if over <= 0:
                    break
                victims.append(victim)
                over -= self._nbytes[victim]
        if over > 0 or (victims and self._counts[model] <= sum(self._counts[victim] for victim in victims)):
            return
        for victim in victims:
            self._take(self._where[victim], victim)
        self._put("probation", model)

    def _put(self, part: str, model: int) -> None:
        self._parts[part][model] = None
        self._used[part] += self._nbytes[model]
        self._where[model] = part

    def _take(self, part: str, model: int | None = None) -> int:
        """The oldest, if none is named."""
        if model is None:
            model = next(iter(self._parts[part]))
        del self._parts[part][model], self._where[model]
        self._used[part] -= self._nbytes[model]
        return model


class PerfectLfu:
    """Least frequently used, of all that was ever asked; no ageing, exact."""

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._free, self._nbytes = capacity_bytes, trace.nbytes.tolist()
        self._counts = [0] * len(self._nbytes)
        self._heap: list[tuple[int, int]] = []
        self._held: set[int] = set()

    def ask(self, model: int, now: float) -> bool:
        self._counts[model] += 1
        if model in self._held:
            return True
        self._free -= self._nbytes[model]
        while self._free < 0:
            count, victim = heappop(self._heap)
            if count == self._counts[victim]:
                self._held.remove(victim)
                self._free += self._nbytes[victim]
            else:
                heappush(self._heap, (self._counts[victim], victim))
        self._held.add(model)
        heappush(self._heap, (self._counts[model], model))
        return False


class Ours:
    """`scorer.residents`, without tenants' limits. What was just loaded may leave, as with the others."""

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._names = [f"m{number}" for number in range(len(trace.nbytes))]
        self._nbytes, self._cost_us = trace.nbytes.tolist(), trace.cost_us.tolist()
        self._tenants = [str(tenant) for tenant in trace.tenant]
        self.residents: Residents[int] = Residents(capacity_bytes)

    def ask(self, model: int, now: float) -> bool:
        name, residents = self._names[model], self.residents
        if residents.get(name) is not None:
            return True
        residents.missed(name)
        nbytes = self._nbytes[model]
        if residents.reserve(name, nbytes, tenant=self._tenants[model], now=now) is not None:
            residents.fill(name, model, nbytes, cost_us=self._cost_us[model], now=now)
        return False


ONLINE: dict[str, type[Policy]] = {
    "LRU": Lru,
    "LFU": PerfectLfu,
    "LFU-DA": LfuDa,
    "W-TinyLFU": TinyLfu,
    "GDSF": Gdsf,
    "ours": Ours,
}
