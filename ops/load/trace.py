"""Arrivals in a file, to be replayed as they were: one CSV line a request, `seconds,tenant,model,rows`.

Contract: `read_trace` takes every `processes`-th line from `process` on, as far as the run lasts. Seconds count from
the warm-up's begin, and lines are in their order; names that aren't among the models are refused. A request is of the
first class that its model belongs to.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from ops.load.arrivals import Arrivals, belongs
from ops.load.spec import LoadSpec
from registry.errors import InvalidRequestError

_WANTED = "seconds,tenant,model,rows"


def read_trace(spec: LoadSpec, process: int) -> Arrivals:
    """What one process sends. Raises InvalidRequestError: names the line at fault."""
    places = {(each.tenant, each.model): place for place, each in enumerate(spec.models)}
    due: list[float] = []
    chosen: list[int] = []
    rows: list[int] = []
    for number, cells in _lines(Path(spec.trace)):
        at_s, tenant, model, count = _parsed(cells, f"line {number} of {spec.trace}")
        if (tenant, model) not in places:
            raise InvalidRequestError(f"line {number} of {spec.trace}: {tenant}/{model} isn't among the models")
        if due and at_s < due[-1]:
            raise InvalidRequestError(f"line {number} of {spec.trace}: it isn't in order of time")
        due.append(at_s)
        chosen.append(places[tenant, model])
        rows.append(count)
    if not due:
        raise InvalidRequestError(f"{spec.trace} has no request")
    part = slice(process, int(np.searchsorted(due, spec.total_s, side="right")), spec.processes)
    model_of = np.array(chosen, np.int32)[part]
    group = np.array([_group(spec, place) for place in model_of.tolist()], np.int32)
    return Arrivals(np.array(due)[part], model_of, np.array(rows, np.int32)[part], group)


def _group(spec: LoadSpec, place: int) -> int:
    model = spec.models[place]
    return next((number for number, each in enumerate(spec.classes) if belongs(model, each)), 0)


def _parsed(cells: list[str], where: str) -> tuple[float, str, str, int]:
    try:
        at, tenant, model, count = cells
        parsed = float(at), tenant, model, int(count)
    except ValueError as error:
        raise InvalidRequestError(f"{where}: wanted {_WANTED}") from error
    if not 0 <= parsed[0] < math.inf or parsed[3] < 1:
        raise InvalidRequestError(f"{where}: wanted seconds from 0 on, and at least one row")
    return parsed


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file), start=1) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"can't read {path} as CSV") from error
    return lines[1:] if lines and ",".join(lines[0][1]) == _WANTED else lines
