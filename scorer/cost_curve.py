"""What a model's predictions take by their number of rows, and what follows: when joining pays, what is long. Pure.

A prediction of one row takes `one_us`, one of n rows `call_us + n * row_us`: engines have a quicker way for one row
(LightGBM), or a price of a call that rows share (ONNX Runtime). The figures are CPU time, measured when the model was
loaded (`scorer.cost_probe`), with warm caches: in traffic a prediction may take several times as long. So a prediction
during which much time passed makes the estimates doubtful: perhaps the machine was busy, perhaps they're wrong. The
next one is then measured, and moves the estimates if it is long (a single row that finds cold caches says little of
many rows); `batch_from` stays.

Contract: `batch_from` is the number of rows from which one prediction for several requests is cheaper than one for
each, by a tenth and what joining takes itself; 0 for never. `short_rows` is the most rows of a prediction that is
thought to take at most `LONG_US`.
"""

from __future__ import annotations

from collections.abc import Mapping

LONG_US = 200.0
MOST_ROWS = 1 << 32
_MOST_JOINED = 64  # More one-row requests for one model than that are rarely there at a time.
_JOIN_US = 2.0
_GAIN = 0.9
_LEAST_US = 0.01
_STEP = 4  # So many equal surprises make up for a wrong estimate.
_MOST_SURPRISE = 4.0


class CostCurve:
    """See the module. `is_doubtful`: the next prediction is to be measured."""

    __slots__ = ("batch_from", "call_us", "is_doubtful", "one_us", "row_us", "short_rows")

    def __init__(self, one_us: float, call_us: float, row_us: float) -> None:
        self.one_us, self.call_us, self.row_us = one_us, call_us, row_us
        self.is_doubtful = False
        self.batch_from = _batch_from(self)
        self.short_rows = self._most_short_rows()

    def estimate_us(self, rows: int) -> float:
        """What a prediction of so many rows takes."""
        return self.one_us if rows == 1 else self.call_us + rows * self.row_us

    def check(self, rows: int, took_us: float) -> None:
        """A prediction of so many rows, which was thought to be short, took so much CPU time."""
        self.is_doubtful = False
        if took_us > LONG_US:
            self.learn(rows, took_us)

    def learn(self, rows: int, took_us: float) -> None:
        """A long prediction of so many rows took so much CPU time."""
        surprise = took_us / max(self.estimate_us(rows), _LEAST_US)
        factor = min(max(surprise, 1 / _MOST_SURPRISE), _MOST_SURPRISE) ** (1 / _STEP)
        self.one_us, self.call_us, self.row_us = self.one_us * factor, self.call_us * factor, self.row_us * factor
        self.short_rows = self._most_short_rows()

    def _most_short_rows(self) -> int:
        if self.one_us > LONG_US:
            return 0
        if not self.row_us:
            return MOST_ROWS
        return int(min(max((LONG_US - self.call_us) / self.row_us, 1.0), MOST_ROWS))


def fit(taken_us: Mapping[int, float]) -> CostCurve:
    """The curve through what was measured: microseconds by number of rows, of one row and perhaps of several."""
    one_us = max(taken_us[1], _LEAST_US)
    several = sorted(rows for rows in taken_us if rows > 1)
    if len(several) < 2:
        return CostCurve(one_us, 0.0, one_us)
    few, many = several[0], several[-1]
    row_us = max((taken_us[many] - taken_us[few]) / (many - few), _LEAST_US)
    return CostCurve(one_us, max(taken_us[few] - few * row_us, 0.0), row_us)


def _batch_from(curve: CostCurve) -> int:
    for rows in range(2, _MOST_JOINED + 1):
        if curve.estimate_us(rows) + _JOIN_US <= _GAIN * rows * curve.one_us:
            return rows
    return 0


class _Unknown(CostCurve):
    """Of a model that couldn't be measured."""

    __slots__ = ()

    def learn(self, rows: int, took_us: float) -> None:
        """Nothing: it's shared."""


# Never joined, never long.
UNKNOWN = _Unknown(_LEAST_US, 0.0, 0.0)
