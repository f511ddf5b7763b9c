"""Measures what a loaded model's predictions take, on the thread that loads.

Contract: `CostProbe.curve` gives a curve for every model, also for one that doesn't take the rows made for it. The
first load of a package predicts made rows seven times, which takes 0.15-0.5 ms for usual models and at most some
milliseconds for slow ones; later loads of it find the curve, with what was learnt since. Figures are CPU time of this
thread, the least of two: other threads and processes count as little as can be. For one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from time import thread_time_ns
from typing import TypeVar

from registry.model import ModelSchema, ModelVersion
from registry.transforms import TransformSpec
from scorer.cost_curve import LONG_US, UNKNOWN, CostCurve, fit
from scorer.engine import LoadedModel, Rows
from scorer.golden import generate
from scorer.transforms.samples import fit_rows

_FEW, _MANY, _MANY_SLOW = 2, 16, 4
_SLOW_US = 50.0
_CURVES = 20_000
_SCHEMAS = 500
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class CostProbe:
    """See the module."""

    def __init__(self) -> None:
        self._curves: OrderedDict[str, CostCurve] = OrderedDict()
        self._rows: OrderedDict[tuple[str, str], Rows] = OrderedDict()  # by digest of schema and of transforms

    def curve(
        self, version: ModelVersion, model: LoadedModel, schema: ModelSchema, transforms: TransformSpec | None
    ) -> CostCurve:
        """The curve of a version that is loaded."""
        curve = self._curves.pop(version.package, None)
        if curve is None:
            curve = measure_costs(model, self._rows_for(version, schema, transforms))
        _keep(self._curves, version.package, curve, _CURVES)
        return curve

    def _rows_for(self, version: ModelVersion, schema: ModelSchema, transforms: TransformSpec | None) -> Rows:
        key = (version.schema, version.transforms)
        rows = self._rows.pop(key, None)
        if rows is None:
            rows = generate(schema, _MANY, missing=False)
            if transforms is not None:
                rows = fit_rows(transforms, rows)
        _keep(self._rows, key, rows, _SCHEMAS)
        return rows


def measure_costs(model: LoadedModel, rows: Rows) -> CostCurve:
    """The curve of a model that takes such rows; 16 of them are needed."""
    try:
        first_us = _us(model, first_rows(rows, 1))  # also warms up what comes next
        if first_us > 10 * LONG_US:
            return fit({1: first_us})
        one_us = _least_us(model, first_rows(rows, 1))
        if one_us > LONG_US:  # The price of a call is nothing beside it.
            return fit({1: one_us})
        many = _MANY if one_us <= _SLOW_US else _MANY_SLOW
        return fit({1: one_us} | {count: _least_us(model, first_rows(rows, count)) for count in (_FEW, many)})
    except Exception:  # It takes other rows; what fails here is no reason not to load it.
        return UNKNOWN


def first_rows(rows: Rows, count: int) -> Rows:
    """The first of some rows."""
    return Rows(rows.dense[:count], {name: values[:count] for name, values in rows.strings.items()})


def _least_us(model: LoadedModel, rows: Rows) -> float:
    return min(_us(model, rows), _us(model, rows))


def _us(model: LoadedModel, rows: Rows) -> float:
    began = thread_time_ns()
    model.predict(rows)
    return (thread_time_ns() - began) / 1e3


def _keep(held: OrderedDict[_Key, _Value], key: _Key, value: _Value, limit: int) -> None:
    held[key] = value
    if len(held) > limit:
        held.popitem(last=False)
