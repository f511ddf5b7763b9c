"""When which model is asked for: the statistics of drawn arrivals, with fixed seeds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ops.load.arrivals import Arrivals, draw
from ops.load.spec import LoadModel, Pattern, RowShare, TenantClass
from tests.unit.load_specs import spec_of


def _all(*classes: TenantClass, processes: int = 1, **more: Any) -> list[Arrivals]:
    spec = spec_of(*classes, processes=processes, **more)
    return [draw(spec, process) for process in range(processes)]


def test_the_same_seed_gives_the_same_requests() -> None:
    tenants = TenantClass(name="all", rate=500.0)
    first, again, other = (draw(spec_of(tenants, seed=seed), 0) for seed in (3, 3, 4))
    for name in ("due_s", "model", "rows", "group"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.due_s[:50], other.due_s[:50])


@pytest.mark.parametrize("processes", [1, 3])
def test_arrivals_are_a_poisson_process(processes: int) -> None:
    parts = _all(TenantClass(name="all", rate=400.0), processes=processes, duration_s=100.0)
    due_s = np.sort(np.concatenate([part.due_s for part in parts]))
    assert len(due_s) == pytest.approx(40_000, abs=5 * np.sqrt(40_000))
    assert 0 <= due_s[0] <= due_s[-1] <= 100
    gaps = np.sort(np.diff(due_s) * 400)
    distance = np.abs(np.arange(1, len(gaps) + 1) / len(gaps) - (1 - np.exp(-gaps))).max()  # Kolmogorov-Smirnov
    assert distance < 1.95 / np.sqrt(len(gaps))
    counts = np.bincount((due_s * 10).astype(int), minlength=1000)  # in tenths of a second: variance is the mean
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.25)


def test_processes_send_different_parts() -> None:
    parts = _all(TenantClass(name="all", rate=1000.0), processes=3)
    assert len({part.due_s[0] for part in parts}) == 3


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
def test_popularity_is_zipf(exponent: float) -> None:
    [part] = _all(TenantClass(name="all", rate=20_000.0, zipf=exponent), models=50)
    counts = np.sort(np.bincount(part.model, minlength=50))[::-1]
    weights = np.arange(1, 51) ** -exponent
    expected = len(part) * weights / weights.sum()
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected.max())


def test_the_popular_models_are_the_same_in_every_process() -> None:
    parts = _all(TenantClass(name="all", rate=5000.0, zipf=1.5), processes=2, models=100)
    first, second = (Counter(part.model.tolist()).most_common(3) for part in parts)
    assert [model for model, _ in first] == [model for model, _ in second]


def test_churn_makes_other_models_popular() -> None:
    churning = TenantClass(name="all", rate=5000.0, zipf=1.5, churn_s=5.0, churn_models=7)
    [part] = _all(churning, models=100)
    before, after = (
        Counter(part.model[(part.due_s >= begin) & (part.due_s < begin + 5)].tolist()) for begin in (0.0, 5.0)
    )
    most_before, most_after = ([model for model, _ in each.most_common(7)] for each in (before, after))
    assert not {*most_before} & {*most_after}
    ranked = [model for model, _ in after.most_common(12)]
    assert ranked.index(most_before[0]) == pytest.approx(7, abs=2)  # It has lost seven ranks.


def test_a_class_that_cycles_asks_for_each_model_in_turn() -> None:
    parts = _all(TenantClass(name="all", rate=50.0, pattern=Pattern.CYCLE), processes=2, models=20)
    for process, part in enumerate(parts):
        assert part.model.tolist() == [(place * 2 + process) % 20 for place in range(len(part))]


def test_a_class_asks_for_its_own_models_in_its_own_time() -> None:
    models = (
        LoadModel("acme", "a", 1),
        LoadModel("t-1", "b", 1),
        LoadModel("t-2", "c", 1),
        LoadModel("x", "d", 1, "late"),
    )
    classes = (
        TenantClass(name="those", rate=500.0, tenants="t-*"),
        TenantClass(name="late", rate=200.0, from_s=4.0, until_s=6.0),
    )
    [part] = _all(*classes, models=models)
    assert {*part.model[part.group == 0].tolist()} == {1, 2}
    late = part.group == 1
    assert {*part.model[late].tolist()} == {0, 1, 2, 3}  # A model without a group is anybody's.
    assert 4 <= part.due_s[late].min() <= part.due_s[late].max() <= 6
    assert late.sum() == pytest.approx(400, abs=5 * 20)
    assert (np.diff(part.due_s) >= 0).all()


def test_the_requests_of_a_batch_are_due_at_one_time() -> None:
    classes = (TenantClass(name="a", rate=1600.0), TenantClass(name="b", rate=800.0))
    [part] = _all(*classes, batch=16)
    assert len(part) % 16 == 0
    calls = part.due_s.reshape(-1, 16)
    assert (calls == calls[:, :1]).all()
    assert (part.group.reshape(-1, 16) == part.group.reshape(-1, 16)[:, :1]).all()
    assert len(part) == pytest.approx(24_000, abs=5 * np.sqrt(24_000 * 16))


def test_rows_are_mixed_by_their_shares() -> None:
    [part] = _all(TenantClass(name="all", rate=5000.0), rows=(RowShare(1, 8.0), RowShare(64, 2.0)))
    assert {*part.rows.tolist()} == {1, 64}
    assert (part.rows == 64).mean() == pytest.approx(0.2, abs=0.02)
