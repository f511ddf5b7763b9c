"""scikit-learn's vectorizers of texts become steps that count words. Used by `ops.convert_columns`.

Contract: only what counts words as `registry.transforms.Tokens` does is converted; the rest is refused by the name of
the setting.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from ops.convert_chain import Chain
from registry.transforms import Tokens

_PATTERN = r"(?u)\b\w\w+\b"  # scikit-learn's own, and that of `Tokens`
_PLAIN = {"analyzer": "word", "tokenizer": None, "preprocessor": None, "strip_accents": None, "input": "content"}


def words(step: Any, chains: list[Chain]) -> list[Chain]:
    """CountVectorizer and TfidfVectorizer."""
    _check(step)
    found = sorted(step.vocabulary_, key=step.vocabulary_.__getitem__)
    tokens = Tokens(
        tuple(map(str, found)),
        lower=bool(step.lowercase),
        longest_ngram=step.ngram_range[1],
        binary=bool(step.binary),
    )
    if hasattr(step, "use_idf"):
        tokens = _weighed(tokens, step, np.dtype(step.dtype))
    return [chain.then(tokens, is_text=True) for chain in chains]


def hashed_words(step: Any, chains: list[Chain]) -> list[Chain]:
    """HashingVectorizer."""
    _check(step)
    _check_dtype(np.dtype(step.dtype))
    tokens = Tokens(
        buckets=step.n_features,
        lower=bool(step.lowercase),
        longest_ngram=step.ngram_range[1],
        binary=bool(step.binary),
        norm=step.norm or "none",
        hash="murmur3",
        signed=bool(step.alternate_sign),
    )
    return [chain.then(tokens, is_text=True) for chain in chains]


def weighed(step: Any, chains: list[Chain]) -> list[Chain]:
    """TfidfTransformer, behind what counts words."""
    [chain, *others] = chains
    last = chain.steps[-1] if chain.steps else None
    if others or not isinstance(last, Tokens) or last.norm != "none" or last.idf:
        raise ValueError("it must follow a CountVectorizer")
    return [chain._replace(steps=(*chain.steps[:-1], _weighed(last, step, np.dtype(np.float64))))]


def _weighed(tokens: Tokens, step: Any, dtype: np.dtype) -> Tokens:
    _check_dtype(dtype)
    return msgspec.structs.replace(
        tokens,
        sublinear=bool(step.sublinear_tf) and not tokens.binary,  # the logarithm of 1 is 0
        idf=tuple(float(each) for each in step.idf_) if step.use_idf else (),
        norm=step.norm or "none",
    )


def _check(step: Any) -> None:
    odd = [name for name, value in _PLAIN.items() if getattr(step, name) != value]
    least, longest = step.ngram_range
    if least != 1:
        odd.append("ngram_range that doesn't begin with 1")
    if step.token_pattern != _PATTERN:
        odd.append("token_pattern")
    is_hashed = not hasattr(step, "vocabulary_")
    if step.stop_words is not None and (longest > 1 or is_hashed):
        odd.append("stop_words" if is_hashed else "stop_words with several words in a row")
    if odd:
        raise ValueError(f"{', '.join(odd)} can't be converted")


def _check_dtype(dtype: np.dtype) -> None:
    if dtype != np.float64:
        raise ValueError(f"dtype {dtype} can't be converted: scorers compute in float64")
