"""How much anybody could do who knew all requests beforehand.

Belady's rule is optimal for models of equal bytes and costs alone; for others the optimum is NP-hard. So it is shut in:

* `bound_us`: no policy can do better. Between two requests for a model one either keeps it, which takes its bytes for
  so many requests and saves one load, or doesn't. Instead of a limit at each moment there is one for the sum over all
  moments, capacity times requests, and the last interval may be kept in part; then taking intervals by saving for each
  byte and request is optimal. This is PFOO-L of Berger, Beckmann and Harchol-Balter (SIGMETRICS 2018), with costs.
* `Clairvoyant`: a policy that can be carried out, if one knows the future. The model leaves whose next load costs least
  for each byte and request that it is away until then. With equal bytes and costs it is Belady's.
"""

from __future__ import annotations

import numpy as np

from bench.eviction.traces import Trace


def next_requests(models: np.ndarray) -> np.ndarray:
    """The place of the next request for the same model; a very late one where there is none."""
    found = np.full(len(models), 1 << 40, np.int64)
    last: dict[int, int] = {}
    for place in range(len(models) - 1, -1, -1):
        found[place] = last.get(models[place], found[place])
        last[models[place]] = place
    return found


def bound_us(trace: Trace, capacity_bytes: int, counted_from: int) -> float:
    """At least so many microseconds go into loads, from the given request on."""
    models, following = trace.models, next_requests(trace.models)
    places = np.flatnonzero((following < len(models)) & (following >= counted_from))
    nbytes, cost_us = trace.nbytes[models[places]], trace.cost_us[models[places]]
    area = nbytes * (following[places] - np.maximum(places, counted_from)).astype(float)
    area = np.maximum(area, 1.0)
    order = np.argsort(-cost_us / area)
    budget = capacity_bytes * float(len(models) - counted_from)
    used = np.cumsum(area[order])
    whole = int(np.searchsorted(used, budget, side="right"))
    saved = float(cost_us[order[:whole]].sum())
    if whole < len(order):
        left = budget - (used[whole - 1] if whole else 0.0)
        saved += float(cost_us[order[whole]] * left / area[order[whole]])
    return float(trace.cost_us[models[counted_from:]].sum()) - saved


class Clairvoyant:
    """See the module."""

    def __init__(self, capacity_bytes: int, trace: Trace) -> None:
        self._capacity_bytes = capacity_bytes
        self._nbytes = trace.nbytes
        self._worth = trace.cost_us / trace.nbytes
        self._following = next_requests(trace.models)
        self._due = np.zeros(len(trace.nbytes), np.int64)  # by model: its next request
        self._held = np.zeros(len(trace.nbytes), bool)
        self._used = 0
        self._place = -1

    def ask(self, model: int, now: float) -> bool:
        self._place += 1
        self._due[model] = self._following[self._place]
        if self._held[model]:
            return True
        self._held[model] = True
        self._used += int(self._nbytes[model])
        if self._used > self._capacity_bytes:
            self._evict()
        return False

    def _evict(self) -> None:
        held = np.flatnonzero(self._held)
        worth = self._worth[held] / (self._due[held] - self._place)
        few = min(len(held), 64)
        least = np.argpartition(worth, few - 1)[:few]
        for number in held[least[np.argsort(worth[least])]]:
            if self._used <= self._capacity_bytes:
                return
            self._held[number] = False
            self._used -= int(self._nbytes[number])
        if self._used > self._capacity_bytes:
            self._evict()
