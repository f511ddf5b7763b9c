"""Replays traces against policies, and counts what they cost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

from bench.eviction.offline import Clairvoyant, bound_us
from bench.eviction.policies import ONLINE, Policy
from bench.eviction.traces import RATE, REQUESTS, Trace, make

COUNTED_FROM = REQUESTS // 4  # Until then memory fills.
BOUND, CLAIRVOYANT = "bound", "clairvoyant"
POLICIES: dict[str, type[Policy]] = {**ONLINE, CLAIRVOYANT: Clairvoyant}


class Case(NamedTuple):
    """`share`: of the catalogue's bytes that fits. `settings`: values of modules of the policy, by dotted name."""

    pattern: str
    share: float
    policy: str
    settings: tuple[tuple[str, float], ...] = ()
    seed: int = 1


class Found(NamedTuple):
    """Of the requests counted: share of hits, by request and by byte, and microseconds of loads for each request."""

    hit_rate: float
    byte_hit_rate: float
    reload_us: float


def replay(trace: Trace, policy: Policy) -> Found:
    """Ask for all models of the trace in turn."""
    nbytes, cost_us = trace.nbytes.tolist(), trace.cost_us.tolist()
    hits = hit_bytes = all_bytes = 0
    reload_us = 0.0
    for place, model in enumerate(trace.models.tolist()):
        is_hit = policy.ask(model, place / RATE)
        if place < COUNTED_FROM:
            continue
        all_bytes += nbytes[model]
        if is_hit:
            hits += 1
            hit_bytes += nbytes[model]
        else:
            reload_us += cost_us[model]
    counted = len(trace.models) - COUNTED_FROM
    return Found(hits / counted, hit_bytes / all_bytes, reload_us / counted)


def run(case: Case) -> Found:
    """Replay one case."""
    trace = make(case.pattern, case.seed)
    capacity_bytes = int(trace.catalogue_bytes * case.share)
    if case.policy == BOUND:
        nan = float("nan")
        return Found(nan, nan, bound_us(trace, capacity_bytes, COUNTED_FROM) / (REQUESTS - COUNTED_FROM))
    with ExitStack() as stack:
        for name, value in (("scorer.residents.JUST_LOADED_S", 0.0), *case.settings):
            stack.enter_context(mock.patch(name, value))
        return replay(trace, POLICIES[case.policy](capacity_bytes, trace))


def run_all(cases: Sequence[Case], processes: int) -> dict[Case, Found]:
    """Replay many, in several processes."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return dict(zip(cases, pool.imap(run, cases, chunksize=1), strict=True))
