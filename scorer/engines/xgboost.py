"""XGBoost models, scored through the library's C API.

Contract: predictions equal `xgboost.Booster.inplace_predict` bit for bit, as float64 of its float32 numbers; those of a
binary classifier equal `XGBClassifier.predict_proba`. NaN is a missing value. The library computes in float32 and
narrows what it's given; so do we. The artifact must have passed `registry.xgboost_model` when it was published.

Short calls keep the interpreter lock, and only they may use the library's proxy of a matrix, which all models share.
"""

from __future__ import annotations

from ctypes import c_void_p

import numpy as np

from registry.errors import InvalidFeaturesError, ModelUnusableError
from registry.model import ModelSchema, OutputKind
from registry.xgboost_model import describe_xgboost, read_xgboost
from scorer.engine import Rows, check_dense
from scorer.engines.xgboost_capi import (
    Api,
    XGBoostError,
    array_interface,
    contributions_config,
    open_api,
    prediction_config,
)

# Above about 100 us a call gives up the interpreter lock. A row costs 4 us a megabyte of the artifact, and a call 20 us
# and as much as 17 rows.
_CALL_ROWS, _SHORT_CALL_BYTES = 17, 20_000_000
_LEAST_BYTES = 16
_NOT_INSTALLED = "XGBoost models need the package xgboost-cpu (or xgboost), which isn't installed here"


class XGBoostModel:
    """A loaded booster. Implements `scorer.engine.LoadedModel` and `scorer.engine.Explains`."""

    def __init__(self, artifact: bytes, schema: ModelSchema) -> None:
        try:
            self._keeping, self._giving_up = open_api()
        except (ModuleNotFoundError, OSError) as error:
            raise ModelUnusableError(_NOT_INSTALLED) from error
        if len(artifact) < _LEAST_BYTES:  # the library looks at the first ones without a look at how many there are
            raise ModelUnusableError("XGBoost can't load the model: it is cut off")
        try:
            self._booster = self._giving_up.load(artifact)
        except XGBoostError as error:
            raise ModelUnusableError(f"XGBoost can't load the model: {error}") from error
        try:
            self._prepare(artifact, schema)
        except BaseException:
            self._giving_up.free(self._booster)
            raise

    def _prepare(self, artifact: bytes, schema: ModelSchema) -> None:
        self.inputs = schema.features
        self._features = len(schema.features)
        features = self._keeping.features(self._booster)
        if features != self._features:
            raise ModelUnusableError(f"the model has {features} features, its schema {self._features}")
        output = schema.outputs[0]
        self._columns = len(output.columns)
        self._binary = output.kind is OutputKind.CLASS_PROBABILITIES and self._columns == 2
        self._rounds = self._best_rounds()
        self._config = prediction_config(self._rounds)
        self._short_rows = _SHORT_CALL_BYTES // len(artifact) - _CALL_ROWS
        self.resident_bytes = len(artifact) * 7 // 5 + 4096
        self._check_width(self._run(self._keeping, np.zeros((1, self._features))))

    def _best_rounds(self) -> int:
        """What an estimator answers with, in a file of its own; 0 for all rounds, as in what admission writes."""
        best = self._keeping.attribute(self._booster, "best_iteration")
        is_estimator = self._keeping.attribute(self._booster, "scikit_learn") is not None
        return int(best) + 1 if best is not None and is_estimator else 0

    def _check_width(self, answer: np.ndarray) -> None:
        width = answer.shape[1] if answer.ndim == 2 else 1
        self._binary = self._binary and width == 1
        if not self._binary and width != max(1, self._columns):
            raise ModelUnusableError(f"the model gives {width} numbers a row, its schema wants {self._columns}")

    def _run(self, api: Api, dense: np.ndarray) -> np.ndarray:
        try:
            return api.predict(self._booster, array_interface(dense), self._config)
        except XGBoostError as error:
            raise ModelUnusableError(f"XGBoost can't run the model: {error}") from error

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`."""
        return self._predict(rows.dense, self._keeping if len(rows.dense) <= self._short_rows else self._giving_up)

    def predict_unlocked(self, rows: Rows) -> list[np.ndarray]:
        """As `KeepsLock.predict_unlocked`."""
        return self._predict(rows.dense, self._giving_up)

    def _predict(self, dense: np.ndarray, api: Api) -> list[np.ndarray]:
        check_dense(dense, self._features)
        answer = self._run(api, np.ascontiguousarray(dense))
        if self._binary:
            # As XGBClassifier does it: subtracted as float32.
            return [np.concatenate([1.0 - answer, answer], axis=1, dtype=np.float64)]
        return [answer.astype(np.float64).reshape((len(dense), self._columns) if self._columns else (len(dense),))]

    def contributions(self, rows: Rows) -> np.ndarray:
        """As `Explains.contributions`: equal to XGBoost's `pred_contribs` bit for bit."""
        check_dense(rows.dense, self._features)
        dense = np.ascontiguousarray(rows.dense)
        config = contributions_config(self._rounds)
        try:
            found = self._giving_up.contributions(self._booster, array_interface(dense), config)
        except XGBoostError as error:
            if "inf" in str(error):
                raise InvalidFeaturesError("XGBoost computes no contributions for infinite features") from error
            raise ModelUnusableError(f"XGBoost can't explain the model's scores: {error}") from error
        return found.astype(np.float64).reshape(len(dense), -1, self._features + 1)

    def close(self) -> None:
        """Free the booster."""
        self._giving_up.free(self._booster)
        self._booster = c_void_p()


class XGBoostEngine:
    """Loads XGBoost models, .ubj and .json. Implements `scorer.engine.Engine`."""

    def load(self, artifact: bytes, schema: ModelSchema) -> XGBoostModel:
        """As `Engine.load`."""
        return XGBoostModel(artifact, schema)

    def describe(self, artifact: bytes) -> ModelSchema:
        """As `Engine.describe`; reads the file without the library."""
        return describe_xgboost(read_xgboost(artifact))


ENGINE = XGBoostEngine()
