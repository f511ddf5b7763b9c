"""Requests to replay: which of a catalogue of models is asked for next, and what each model takes.

Bytes and load times are those measured for real models: LightGBM trees take 2.75 KB each and 9.2 us to parse, from 20
to 1,000 trees (uniform in the logarithm); dense ONNX models 36 to 93 KB and 0.13 to 0.31 ms; trees in ONNX 160 to 746
KB and 1.0 to 7.3 ms. A load also fetches, which is assumed: a model in ten from object storage (8 ms and 10 us a KB),
the others from disk (0.15 ms and 1 us a KB with the checksum).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

MODELS, REQUESTS, RATE = 4000, 80_000, 200.0  # RATE: requests a second
_DENSE = ((36e3, 130), (64e3, 190), (93e3, 310))
_ONNX_TREES = ((160e3, 1000), (473e3, 3700), (746e3, 7300))


class Trace(NamedTuple):
    """`models`: numbers in the order of requests. By number of model: `nbytes`, `cost_us`, `tenant`."""

    name: str
    models: np.ndarray
    nbytes: np.ndarray
    cost_us: np.ndarray
    tenant: np.ndarray

    @property
    def catalogue_bytes(self) -> int:
        return int(self.nbytes.sum())


def catalogue(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and microseconds of a load, of so many models."""
    trees = np.exp(random.uniform(np.log(20), np.log(1000), count))
    nbytes, engine_us = trees * 2750 + 15e3, trees * 9.2 + 60
    kinds = random.random(count)
    for table, low, high in ((_DENSE, 0.0, 0.25), (_ONNX_TREES, 0.25, 0.35)):
        chosen = (kinds >= low) & (kinds < high)
        rows = np.array(table)[random.integers(0, len(table), count)]
        nbytes, engine_us = np.where(chosen, rows[:, 0], nbytes), np.where(chosen, rows[:, 1], engine_us)
    is_far = random.random(count) < 0.1
    fetch_us = np.where(is_far, 8000 + nbytes / 1000 * 10, 150 + nbytes / 1000)
    return nbytes.astype(np.int64), np.round(fetch_us + engine_us * random.lognormal(0, 0.2, count))


def zipf(random: np.random.Generator, alpha: float, models: int, count: int) -> np.ndarray:
    """Numbers from 0 on, each asked for in proportion to rank ** -alpha; independent of each other."""
    shares = np.arange(1, models + 1) ** -alpha
    return random.choice(models, count, p=shares / shares.sum())


def loop(_random: np.random.Generator) -> np.ndarray:
    """A third of the catalogue, in turn, again and again."""
    return np.arange(REQUESTS) % (MODELS // 3)


def scans(random: np.random.Generator) -> np.ndarray:
    """Zipf 0.9 over half of the catalogue; now and then half of the requests walk once through the other half."""
    found = zipf(random, 0.9, MODELS // 2, REQUESTS)
    for begin in range(REQUESTS // 6, REQUESTS, REQUESTS // 3):
        found[begin : begin + MODELS : 2] = MODELS // 2 + np.arange(MODELS // 2)
    return found


def shifts(random: np.random.Generator) -> np.ndarray:
    """Zipf 0.9; five times half of the models swap their popularity."""
    found = zipf(random, 0.9, MODELS, REQUESTS)
    names = np.arange(MODELS)
    for part in np.array_split(np.arange(REQUESTS), 6):
        found[part] = names[found[part]]
        moved = random.permutation(MODELS)[: MODELS // 2]
        names[moved] = names[random.permutation(moved)]
    return found


def bursts(random: np.random.Generator) -> np.ndarray:
    """One model in fifty is asked for at a time, each for a while: what was used last is what is used next."""
    active = random.integers(0, MODELS, MODELS // 50)
    found = np.empty(REQUESTS, np.int64)
    for place, slot in enumerate(random.integers(0, len(active), REQUESTS)):
        if random.random() < 0.05:
            active[slot] = random.integers(0, MODELS)
        found[place] = active[slot]
    return found


def tenants(random: np.random.Generator) -> np.ndarray:
    """Nine tenants with Zipf 0.9 each; the tenth, with three requests in ten, walks through half of the catalogue."""
    each = MODELS // 2 // 9
    found = zipf(random, 0.9, each, REQUESTS) * 9 + random.integers(0, 9, REQUESTS)
    cycles = random.random(REQUESTS) < 0.3
    found[cycles] = MODELS // 2 + np.arange(cycles.sum()) % (MODELS // 2)
    return found


def _zipf(alpha: float) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda random: zipf(random, alpha, MODELS, REQUESTS)


PATTERNS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    **{f"zipf {alpha}": _zipf(alpha) for alpha in (0.6, 0.9, 1.1)},
    "scans": scans,
    "shifts": shifts,
    "tenants": tenants,
    "loop": loop,
    "bursts": bursts,
}


@lru_cache(maxsize=2)
def make(name: str, seed: int = 1) -> Trace:
    """The trace of a pattern; which models are large or slow has nothing to do with how much they're asked for."""
    random = np.random.default_rng(seed)
    nbytes, cost_us = catalogue(random, MODELS)
    models = PATTERNS[name](random)
    tenant = np.where(np.arange(MODELS) < MODELS // 2, np.arange(MODELS) % 9, 9)
    return Trace(name, models, nbytes, cost_us, tenant)
