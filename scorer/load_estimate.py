"""How long a load will take, by what loads took before, and whether a request can wait for it. Pure.

What a fetch takes grows with its bytes, and differs by where they come from; what an engine takes grows with the bytes
too, and differs by engine. Each of these is a line, fitted by least squares in which a sample weighs `_KEEP` times as
much with each one that follows it.

Contract: nothing is known before `_EXPERIENCE` loads of a kind, and what isn't known refuses nobody. One load that hung
doesn't make all that follow look hopeless: a sample counts as `_OUTLIER` times what was expected at most, so that a
store that really has become slow is believed after some loads.
"""

from __future__ import annotations

from typing import NamedTuple

from registry.errors import LoadQueueFullError, ScoreMeshError, TooSlowError
from registry.model import ModelVersion, Runtime

_KEEP = 0.9
_EXPERIENCE = 5
_OUTLIER = 4.0
_UNKNOWN_COST_US = 5_000.0


class Forecast(NamedTuple):
    """Of one load, begun now. `fetch_us`: until its bytes are there; `engine_us`: from then on."""

    fetch_us: float
    engine_us: float

    @property
    def alone_us(self) -> float:
        """What it takes when nothing else is loaded."""
        return self.fetch_us + self.engine_us


class LoadEstimate:
    """See the module. `at_once`: how many fetches overlap; engines load one after another."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._fetches = {True: _Line(), False: _Line()}  # by whether the bytes were on the local disk
        self._engines: dict[Runtime, _Line] = {}

    def learn(self, version: ModelVersion, *, from_disk: bool, fetch_us: float, engine_us: float) -> None:
        """A load has succeeded. `fetch_us`, `engine_us`: as of `Forecast`, without waiting for other loads."""
        self._fetches[from_disk].add(version.artifact_bytes, fetch_us)
        self._engines.setdefault(version.runtime, _Line()).add(version.artifact_bytes, engine_us)

    def forecast(self, version: ModelVersion, *, on_disk: bool) -> Forecast | None:
        """None where there were too few like it."""
        engine = self._engines.get(version.runtime)
        fetch = self._fetches[on_disk]
        if engine is None or not engine.is_known or not fetch.is_known:
            return None
        return Forecast(fetch.at(version.artifact_bytes), engine.at(version.artifact_bytes))

    def cost_us(self, forecast: Forecast | None) -> float:
        """How long a load holds others up."""
        return _UNKNOWN_COST_US if forecast is None else self.held_up_us(forecast.fetch_us, forecast.engine_us)

    def held_up_us(self, fetch_us: float, engine_us: float) -> float:
        """How long a load that took so long held others up."""
        return fetch_us / self._at_once + engine_us


def refusal(left_us: float, wait_us: float, begun_us: float, forecast: Forecast | None) -> ScoreMeshError | None:
    """The error for a request that hasn't time enough for the load it needs, None where it has. `left_us`: until its
    deadline; `wait_us`: until the load can begin; `begun_us`: since it began.
    """
    if forecast is None:
        return None
    alone_us = max(0.0, forecast.alone_us - begun_us)
    needed_ms, left_ms = (wait_us + alone_us) / 1000, left_us / 1000
    retry_after_ms = max(1, round(needed_ms))
    if alone_us > left_us:
        text = f"loading the model takes about {alone_us / 1000:.0f} ms, which goes on; {left_ms:.0f} ms were left"
        return TooSlowError(text, retry_after_ms=retry_after_ms)
    if wait_us + alone_us > left_us:
        text = f"loads wait: this one ends in about {needed_ms:.0f} ms and goes on; {left_ms:.0f} ms were left"
        return LoadQueueFullError(text, retry_after_ms=retry_after_ms)
    return None


class _Line:
    """Microseconds by bytes."""

    __slots__ = ("_count", "_x", "_xx", "_xy", "_y", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def is_known(self) -> bool:
        return self.samples >= _EXPERIENCE

    def add(self, nbytes: int, took_us: float) -> None:
        if self.is_known:
            took_us = min(took_us, _OUTLIER * max(self.at(nbytes), 1.0))
        self.samples += 1
        self._count = self._count * _KEEP + 1
        self._x = self._x * _KEEP + nbytes
        self._y = self._y * _KEEP + took_us
        self._xx = self._xx * _KEEP + nbytes * nbytes
        self._xy = self._xy * _KEEP + nbytes * took_us

    def at(self, nbytes: int) -> float:
        """Neither what every load takes nor what each byte takes is under 0."""
        mean_x, mean_y = self._x / self._count, self._y / self._count
        spread = self._xx / self._count - mean_x * mean_x
        slope = (self._xy / self._count - mean_x * mean_y) / spread if spread > 1e-6 * mean_x * mean_x else 0.0
        slope = min(max(slope, 0.0), mean_y / mean_x if mean_x else 0.0)
        return mean_y + slope * (nbytes - mean_x)
