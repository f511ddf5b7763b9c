"""Arrivals in a file, to be replayed as they were: one CSV line a request, `seconds,tenant,model,rows`.

Contract: `read_trace` takes every `processes`-th line from `process` on. Lines are in order of time; names that aren't
among the models are refused.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ops.load.arrivals import Arrivals
from ops.load.spec import LoadSpec
from registry.errors import InvalidRequestError


def read_trace(spec: LoadSpec, process: int) -> Arrivals:
    """What one process sends. Raises InvalidRequestError: names the line at fault."""
    places = {(each.tenant, each.model): place for place, each in enumerate(spec.models)}
    groups = {each.name: number for number, each in enumerate(spec.classes)}
    due: list[float] = []
    chosen: list[int] = []
    rows: list[int] = []
    for number, cells in enumerate(_lines(Path(spec.trace)), start=1):
        try:
            at, tenant, model, count = cells
            place = places[tenant, model]
            due.append(float(at))
            rows.append(int(count))
        except (KeyError, ValueError) as error:
            why = f"model {error} isn't among the models" if isinstance(error, KeyError) else "wanted " + _WANTED
            raise InvalidRequestError(f"line {number} of {spec.trace}: {why}") from error
        chosen.append(place)
    times = np.array(due)
    if (np.diff(times) < 0).any():
        raise InvalidRequestError(f"{spec.trace} isn't in order of time")
    part = slice(process, None, spec.processes)
    group = np.array([groups.get(spec.models[place].group, 0) for place in chosen], np.int32)
    return Arrivals(times[part], np.array(chosen, np.int32)[part], np.array(rows, np.int32)[part], group[part])


_WANTED = "seconds,tenant,model,rows"


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [cells for cells in csv.reader(file) if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequestError(f"can't read {path} as CSV") from error
    return lines[1:] if lines and ",".join(lines[0]) == _WANTED else lines
