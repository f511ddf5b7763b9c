"""What the policy itself costs: a request for a model in memory, a load that evicts one, a look ahead. CPU time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from unittest import mock

import numpy as np

from scorer.residents import Residents

_TENANTS = 50
_ROUNDS = 7


class _Lru:
    """As little as a cache can do that notes which model was used last."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._entries = OrderedDict((key, object()) for key in keys)

    def get(self, key: str) -> object | None:
        value = self._entries.get(key)
        if value is None:
            return None
        self._entries.move_to_end(key)
        return value


def _ns_each(get: Callable[[str], object], keys: list[str]) -> float:
    began = time.process_time_ns()
    for key in keys:
        get(key)
    return (time.process_time_ns() - began) / len(keys)


def filled(count: int, guaranteed: bool) -> Residents[object]:
    """Full of models of 100 bytes, of tenants that have all of it guaranteed but for a tenth, or nothing."""
    residents: Residents[object] = Residents(count * 100)
    if guaranteed:
        for number in range(_TENANTS):
            residents.set_limits(str(number), guaranteed_bytes=count * 90 // _TENANTS)
    for number in range(count):
        load(residents, f"lightgbm/{number:064}", str(number % _TENANTS), number * 0.01)
    return residents


def load(residents: Residents[object], key: str, tenant: str, now: float) -> None:
    residents.missed(key)
    if residents.reserve(key, 100, tenant=tenant, now=now) is None:
        raise AssertionError("no room")
    residents.fill(key, object(), 100, cost_us=1000.0 + hash(key) % 1000, now=now)


def get_ns(count: int) -> dict[str, float]:
    """Medians of rounds in turn, for a set of keys in random order."""
    residents = filled(count, guaranteed=False)
    keys = [key for key, _value in residents.items()]
    asked = [keys[place] for place in np.random.default_rng(1).integers(0, count, 200_000)]
    ways: dict[str, Callable[[str], object]] = {
        "dict.get": dict(residents.items()).get,
        "OrderedDict, move_to_end": _Lru(keys).get,
        "ours": residents.get,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, get in ways.items():
            found[name].append(_ns_each(get, asked))
    return {name: float(np.median(some)) for name, some in found.items()}


def load_us(count: int, guaranteed: bool, loads: int = 4000) -> float:
    """Mean of loads of a tenant that nothing is guaranteed to, each of which evicts a model."""
    with mock.patch("scorer.residents.JUST_LOADED_S", 0.0):
        residents, now = filled(count, guaranteed), count * 0.01
        began = time.process_time_ns()
        for number in range(loads):
            load(residents, f"x{number}", "other", now + number * 0.01)
        return (time.process_time_ns() - began) / loads / 1000


def foretell_us(count: int) -> float:
    """One look at when there will be room, while all that is in memory was just loaded."""
    with mock.patch("scorer.residents.JUST_LOADED_S", 1e9):
        residents = filled(count, guaranteed=False)
        began = time.process_time_ns()
        residents.evictable_in_s(count * 50, "other", count * 0.01)
        return (time.process_time_ns() - began) / 1000


def table() -> str:
    """As markdown."""
    lines = ["| models in memory | 1,000 | 100,000 |", "| --- | ---: | ---: |"]
    small, large = get_ns(1000), get_ns(100_000)
    lines += [f"| `get`: {name} | {small[name]:.0f} ns | {large[name]:.0f} ns |" for name in small]
    for name, measure in (
        ("a load that evicts one", lambda count: load_us(count, guaranteed=False)),
        ("the same, nine tenths are guaranteed to others", lambda count: load_us(count, guaranteed=True)),
        ("`evictable_in_s`, all were just loaded", foretell_us),
    ):
        lines.append(f"| {name} | {measure(1000):.0f} us | {measure(100_000):.0f} us |")
    return "\n".join(lines)
