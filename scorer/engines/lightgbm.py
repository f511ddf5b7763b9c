"""LightGBM models, scored through the library's C API.

Contract: predictions equal `lightgbm.Booster.predict` bit for bit. One float64 row takes the library's single-row path
and as few Python steps as possible; more rows go through its matrix path. A float32 row is widened first, as the
library itself would do. The artifact must have passed `registry.lightgbm_text` when it was published: the library
crashes or hangs on a broken text, so nothing else may be loaded in a process that matters.

Only one thread at a time is inside the single-row path of a model: the library has a mutex there, and for short models
the interpreter lock is kept anyway.
"""

from __future__ import annotations

from ctypes import byref, c_char, c_int64, c_void_p

import msgspec
import numpy as np

from registry.errors import ModelUnusableError
from registry.lightgbm_categories import read_categories
from registry.lightgbm_text import describe_lightgbm_text
from registry.model import ModelSchema, OutputKind, OutputSchema
from scorer.engine import Rows, check_dense
from scorer.engines.lightgbm_capi import Api, LightGBMError, open_api

# Above about 100 us a call gives up the interpreter lock. One row costs about 1 us and 20 ns a tree with a warm cache,
# up to 300 ns a tree with a cold one; 50 ns is in between.
_SHORT_CALL_TREE_ROWS = 2000

_FLOAT64 = np.dtype(np.float64)


class LightGBMModel:
    """A loaded booster. Implements `scorer.engine.LoadedModel` and `scorer.engine.Explains`."""

    def __init__(self, artifact: bytes, schema: ModelSchema) -> None:
        self._keeping, self._giving_up = open_api()
        try:
            self._booster = self._giving_up.load(artifact)
        except LightGBMError as error:
            raise ModelUnusableError(f"LightGBM can't load the model: {error}") from error
        try:
            self._prepare(schema)
        except BaseException:
            self._giving_up.free(self._booster)
            raise
        # Of a text without training notes, which is what scorers load.
        self.resident_bytes = len(artifact) * 17 // 10 + 4096

    def _prepare(self, schema: ModelSchema) -> None:
        # A binary classifier gives one number a row, p of the second class. "multiclass" with two classes gives two.
        self._columns = self._keeping.count("GetNumClasses", self._booster)
        self.inputs = schema.features
        self._features = len(schema.features)
        self._binary, self._flat = _layout(schema.outputs[0], self._columns)
        self._check_features()
        self._trees = self._keeping.count("NumberOfTotalModel", self._booster)
        self._fast_config = self._keeping.fast_config(self._booster, self._features)
        self._row_shape = (1, self._features)
        self._row_api = self._api_for(1)
        self._predict_fast = self._row_api.predict_fast
        # The library writes the length of the answer here; it is known, so nobody reads it.
        self._out_len = c_int64()
        self._out_len_ref = byref(self._out_len)

    def _check_features(self) -> None:
        features = self._keeping.count("GetNumFeature", self._booster)
        if features != self._features:
            raise ModelUnusableError(f"the model has {features} features, its schema {self._features}")

    def _api_for(self, rows: int) -> Api:
        return self._keeping if rows * self._trees <= _SHORT_CALL_TREE_ROWS else self._giving_up

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """As `LoadedModel.predict`. Takes 1-2 us and the C call for one row of float64."""
        dense = rows.dense
        if dense.shape != self._row_shape or dense.dtype is not _FLOAT64:
            return self._predict_any(dense)
        # `tobytes` is the cheapest way to a pointer of contiguous float64: 0.05 us, `ctypes.data` takes 1 us.
        if self._binary:
            probabilities = np.empty((1, 2))
            out = byref(c_char.from_buffer(probabilities.data, 8))
            if self._predict_fast(self._fast_config, dense.tobytes(), self._out_len_ref, out):
                self._fail()
            probabilities[0, 0] = 1.0 - probabilities[0, 1]
            return [probabilities]
        answer = np.empty(1) if self._flat else np.empty((1, self._columns))
        out = byref(c_char.from_buffer(answer.data))
        if self._predict_fast(self._fast_config, dense.tobytes(), self._out_len_ref, out):
            self._fail()
        return [answer]

    def _predict_any(self, dense: np.ndarray) -> list[np.ndarray]:
        check_dense(dense, self._features)
        if len(dense) == 1:
            return self.predict(Rows(dense.astype(_FLOAT64), {}))
        return self._predict_matrix(np.ascontiguousarray(dense))

    def predict_unlocked(self, rows: Rows) -> list[np.ndarray]:
        """As `KeepsLock.predict_unlocked`."""
        check_dense(rows.dense, self._features)
        return self._predict_matrix(np.ascontiguousarray(rows.dense), self._giving_up)

    def _predict_matrix(self, dense: np.ndarray, api: Api | None = None) -> list[np.ndarray]:
        count = len(dense)
        answer = np.empty(count) if self._columns == 1 else np.empty((count, self._columns))
        (api or self._api_for(count)).predict_matrix(self._booster, dense, answer)
        if not self._binary:
            return [answer if self._flat else answer.reshape(count, self._columns)]
        probabilities = np.empty((count, 2))
        probabilities[:, 1] = answer
        np.subtract(1.0, answer, out=probabilities[:, 0])
        return [probabilities]

    def contributions(self, rows: Rows) -> np.ndarray:
        """As `Explains.contributions`: equal to LightGBM's `pred_contrib` bit for bit. Only for a model that was loaded
        with its training notes (`registry.lightgbm_slim.with_counts`): without them the library divides by zero.
        """
        dense = rows.dense
        check_dense(dense, self._features)
        answer = np.empty((len(dense), self._columns, self._features + 1))
        self._giving_up.contributions(self._booster, np.ascontiguousarray(dense), answer)
        return answer

    def _fail(self) -> None:
        self._row_api.check(-1)

    def close(self) -> None:
        """Free the booster and what was prepared for single rows."""
        self._giving_up.free_fast_config(self._fast_config)
        self._giving_up.free(self._booster)
        self._booster = self._fast_config = c_void_p()


def _layout(output: OutputSchema, columns: int) -> tuple[bool, bool]:
    """(binary classifier, one number a row), for a booster of so many numbers a row."""
    binary = output.kind is OutputKind.CLASS_PROBABILITIES and len(output.columns) == 2 and columns == 1
    if not binary and columns != max(1, len(output.columns)):
        raise ModelUnusableError(f"the model gives {columns} numbers a row, its schema wants {len(output.columns)}")
    return binary, not output.columns


class LightGBMEngine:
    """Loads LightGBM text models. Implements `scorer.engine.Engine`."""

    def load(self, artifact: bytes, schema: ModelSchema) -> LightGBMModel:
        """As `Engine.load`."""
        return LightGBMModel(artifact, schema)

    def describe(self, artifact: bytes) -> ModelSchema:
        """As `Engine.describe`; reads the text around the trees, without the library."""
        dtypes, categories = read_categories(artifact)
        return msgspec.structs.replace(describe_lightgbm_text(artifact), dtypes=dtypes, categories=categories)


ENGINE = LightGBMEngine()
