"""What is XGBoost's own; the rest is in tests/conformance."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib import metadata

import numpy as np
import pytest

from registry.errors import ArtifactRejectedError, InvalidFeaturesError, ModelUnusableError
from registry.model import Runtime
from registry.probe_wire import Order
from scorer import admission
from scorer.engine import Rows, engine_for
from scorer.engines.xgboost import XGBoostModel
from scorer.engines.xgboost_capi import open_api
from tests.conformance.entries import ENTRIES

MODEL = ENTRIES[Runtime.XGBOOST].models()["number"]
ENGINE = engine_for(Runtime.XGBOOST)


@pytest.fixture
def without_xgboost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)

    def version(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    caches = (open_api, admission.runtime_version)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("without_xgboost")
def test_without_the_library_models_are_refused_by_name() -> None:
    with pytest.raises(ModelUnusableError, match="need the package xgboost-cpu"):
        ENGINE.load(MODEL.offered, ENGINE.describe(MODEL.offered))
    with pytest.raises(ArtifactRejectedError, match="xgboost-cpu or xgboost isn't installed"):
        admission.admit(MODEL.offered, Order(Runtime.XGBOOST), lambda _: None)


def test_the_message_is_the_librarys_without_its_stack() -> None:
    schema = ENGINE.describe(MODEL.offered)
    with pytest.raises(ModelUnusableError, match=r"XGBoost can't load the model: [^\[]") as caught:
        ENGINE.load(b'{"learner": 1, "version": [3, 2, 0]}', schema)
    assert "Stack trace" not in caught.value.message
    assert "/src/" not in caught.value.message


def test_infinite_features_have_a_score_and_no_contributions() -> None:
    schema = ENGINE.describe(MODEL.offered)
    model = ENGINE.load(MODEL.offered, schema)
    assert isinstance(model, XGBoostModel)
    rows = Rows(np.full((1, len(schema.features)), np.inf), {})
    assert np.isfinite(model.predict(rows)[0]).all()
    with pytest.raises(InvalidFeaturesError, match="infinite"):
        model.contributions(rows)
    model.close()
