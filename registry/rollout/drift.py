"""How far two samples of scores are apart: the population stability index (PSI), made fit for small samples. Pure.

PSI is the sum over bins of (q - p) ln(q / p), the symmetric Kullback-Leibler divergence (Jeffreys 1946) of the shares
p, q of the two samples; in credit scoring (Siddiqi, Credit Risk Scorecards, 2006) under 0.1 is read as no change and
over 0.25 as a large one. Three things are added:

- Bins: neighbouring buckets are put together until each bin has a tenth of the mean of both distributions. Both count
  alike, however much larger one sample is, so that what only a small canary gives has a bin of its own.
- Smoothing: half a score is added to each bin of each sample, so that an empty bin doesn't make the index infinite.
- Noise: for two samples (n and m scores) of one distribution the index is about (1/n + 1/m) times a chi-square variable
  with B - 1 degrees of freedom (Yurdakul, Naranjo: Statistical properties of the population stability index, Journal of
  Risk Model Validation, 2020). Its mean is subtracted, and an index that isn't beyond its far tail isn't significant.

The scores are taken as independent. Where a few entities make most of the requests they aren't: chance then moves the
index more than this knows, and a guard needs more requests or a greater limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BINS = 10
_SMOOTHING = 0.5
# Standard normal quantile of the tail that counts as chance: 3 in 100,000, as a guard looks again and again.
_SURE_Z = 4.0


class Drift(NamedTuple):
    """`psi`: without the part that chance alone gives on average, 0 or more. `significant`: chance can't be it."""

    psi: float
    significant: bool


def compare(stable: Mapping[int, int], canary: Mapping[int, int]) -> Drift:
    """How far the canary's histogram is from the stable one. Buckets: number, in the order of the scores, to count."""
    n, m = sum(stable.values()), sum(canary.values())
    if not n or not m:
        return Drift(0.0, significant=False)
    bins = bin_counts(stable, canary)
    freedom, scale = len(bins) - 1, 1 / n + 1 / m
    if not freedom:
        return Drift(0.0, significant=False)
    psi = stability_index(bins)
    return Drift(max(0.0, psi - freedom * scale), significant=psi > scale * chi_square_quantile(freedom, _SURE_Z))


def bin_counts(stable: Mapping[int, int], canary: Mapping[int, int]) -> list[tuple[int, int]]:
    """Both histograms over the same bins, in the order of the scores; neither histogram may be empty."""
    n, m = sum(stable.values()), sum(canary.values())
    bins: list[tuple[int, int]] = []
    a = b = 0
    for bucket in sorted(stable.keys() | canary.keys()):
        a, b = a + stable.get(bucket, 0), b + canary.get(bucket, 0)
        if _share(a, b, n, m) >= 1 / BINS:
            bins.append((a, b))
            a = b = 0
    if (a or b) and _share(a, b, n, m) < 0.5 / BINS and bins:
        last = bins.pop()
        a, b = a + last[0], b + last[1]
    return [*bins, (a, b)] if a or b else bins


def stability_index(bins: Sequence[tuple[int, int]]) -> float:
    """PSI of two samples' counts over the same bins, smoothed."""
    n, m = (sum(side) + _SMOOTHING * len(bins) for side in zip(*bins, strict=True))
    shares = (((a + _SMOOTHING) / n, (b + _SMOOTHING) / m) for a, b in bins)
    return math.fsum((q - p) * math.log(q / p) for p, q in shares)


def chi_square_quantile(freedom: int, z: float) -> float:
    """The quantile of the chi-square distribution at that of the standard normal one, by the approximation of Wilson
    and Hilferty (1931).
    """
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + z * math.sqrt(spread)) ** 3)


def _share(a: int, b: int, n: int, m: int) -> float:
    return (a / n + b / m) / 2
