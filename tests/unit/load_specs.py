"""Specs and outcomes for the tests of the load generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from ops.load.outcomes import UNFINISHED, Outcomes
from ops.load.spec import LoadModel, LoadSpec, Target, TenantClass


def spec_of(*classes: TenantClass, models: int | tuple[LoadModel, ...] = 10, **more: Any) -> LoadSpec:
    """A spec of these models, or of so many of the tenant "t"; without a warm-up unless one is wanted."""
    if isinstance(models, int):
        models = tuple(LoadModel("t", f"m{number}", 4) for number in range(models))
    given: dict[str, Any] = {
        "target": Target.SCORE,
        "addresses": ("127.0.0.1:1",),
        "models": models,
        "classes": classes or (TenantClass(name="all", rate=100.0),),
        "warm_up_s": 0.0,
    }
    return LoadSpec(**{**given, **more})


def outcomes_of(
    due_s: list[float],
    latency_ms: list[float],
    *,
    status: list[int] | None = None,
    residency: list[int] | None = None,
    group: list[int] | None = None,
    late_ms: float = 0.0,
) -> Outcomes:
    """Requests that took so long; NaN for one that was never answered."""
    count = len(due_s)
    due, taken = np.array(due_s), np.array(latency_ms) / 1000
    default = [UNFINISHED if np.isnan(each) else 0 for each in taken]
    return Outcomes(
        {
            "due_s": due,
            "sent_s": due + late_ms / 1000,
            "done_s": due + taken,
            "status": np.array(default if status is None else status, np.int16),
            "residency": np.array([1] * count if residency is None else residency, np.int8),
            "model": np.zeros(count, np.int32),
            "rows": np.ones(count, np.int32),
            "group": np.array([0] * count if group is None else group, np.int32),
        }
    )
