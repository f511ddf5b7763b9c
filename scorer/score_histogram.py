"""Buckets for scores, fine enough to see a drift and the same for every model, so that scorers' counts add up. Pure.

Log-linear, as in HdrHistogram: from 2**-10 on each octave has 8 buckets of equal width, so a bucket is 6 to 13 percent
wide wherever a score is; probabilities and regressions of any unit alike. Bucket 0 is what is smaller. A negative score
has the negative bucket of its absolute value. What is 2**64 or more shares the last bucket; infinities and NaN have
their own.
"""

from __future__ import annotations

from math import frexp, isinf, isnan

BUCKETS_AN_OCTAVE = 8
NAN = 20_000
INFINITE = 10_000
_FIRST_EXPONENT = -9  # frexp gives 2**-10 as 0.5 * 2**-9
_LAST = (64 - _FIRST_EXPONENT + 1) * BUCKETS_AN_OCTAVE


def bucket(score: float) -> int:
    """The bucket of a score: it never falls where the score rises, and `bucket(-x) == -bucket(x)` unless x is NaN."""
    if isnan(score):
        return NAN
    if isinf(score):
        return INFINITE if score > 0 else -INFINITE
    mantissa, exponent = frexp(abs(score))
    octave = exponent - _FIRST_EXPONENT
    if octave < 0 or not score:
        return 0
    place = min(octave * BUCKETS_AN_OCTAVE + int((mantissa - 0.5) * 2 * BUCKETS_AN_OCTAVE) + 1, _LAST)
    return place if score > 0 else -place
