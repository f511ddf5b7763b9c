"""The part of LightGBM's C API that scoring needs, by ctypes.

The shared library of the `lightgbm` wheel is opened without importing the package: the import drags in pandas, scikit-
learn and pyarrow, 180 MB and a second. Each function exists twice: a `PyDLL` handle keeps the interpreter lock during
the call, a `CDLL` handle gives it up. Giving it up costs a 5 us call up to a whole switch interval when another Python
thread is busy, so short calls keep it and long ones don't.

Invariants: LightGBM runs one thread in this process. The functions see raw pointers and check no bounds; callers pass
C-contiguous buffers of the right width. Reference: LightGBM's include/LightGBM/c_api.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_FLOAT32, _FLOAT64 = 0, 1
_NORMAL_PREDICTION, _CONTRIBUTIONS = 0, 3
_ROW_MAJOR = 1
_PARAMETERS = b"num_threads=1 verbosity=-1"

_SIGNATURES: dict[str, list[Any]] = {
    "LGBM_SetMaxThreads": [c_int],
    "LGBM_BoosterLoadModelFromString": [c_char_p, POINTER(c_int), POINTER(c_void_p)],
    "LGBM_BoosterFree": [c_void_p],
    "LGBM_BoosterGetNumFeature": [c_void_p, POINTER(c_int)],
    "LGBM_BoosterGetNumClasses": [c_void_p, POINTER(c_int)],
    "LGBM_BoosterNumberOfTotalModel": [c_void_p, POINTER(c_int)],
    "LGBM_BoosterPredictForMat": [
        *(c_void_p, c_void_p, c_int, c_int32, c_int32, c_int),  # booster, data, dtype, rows, columns, row major
        *(c_int, c_int, c_int, c_char_p, c_void_p, c_void_p),  # kind, first and last iteration, params, out_len, out
    ],
    "LGBM_BoosterPredictForMatSingleRowFastInit": [
        *(c_void_p, c_int, c_int, c_int, c_int, c_int32, c_char_p),
        POINTER(c_void_p),
    ],
    "LGBM_BoosterPredictForMatSingleRowFast": [c_void_p, c_void_p, c_void_p, c_void_p],
    "LGBM_FastConfigFree": [c_void_p],
}


class LightGBMError(Exception):
    """The library refused a call; the message is its own."""


class Api:
    """The functions of one handle of the library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, argtypes in _SIGNATURES.items():
            getattr(library, name).argtypes = argtypes
        library.LGBM_GetLastError.restype = c_char_p
        self.library = library
        self.predict_fast = library.LGBM_BoosterPredictForMatSingleRowFast

    def check(self, return_code: int) -> None:
        """Raise LightGBMError if a call failed. Must follow the call on the same thread."""
        if return_code:
            raise LightGBMError(self.library.LGBM_GetLastError().decode(errors="replace"))

    def load(self, text: bytes) -> c_void_p:
        """Parse a model; free the handle with `free`. The library copies what it needs of `text`."""
        booster, iterations = c_void_p(), c_int()
        self.check(self.library.LGBM_BoosterLoadModelFromString(text, byref(iterations), byref(booster)))
        return booster

    def free(self, booster: c_void_p) -> None:
        """Free a model. Its fast configurations must be freed before."""
        self.check(self.library.LGBM_BoosterFree(booster))

    def count(self, what: str, booster: c_void_p) -> int:
        """An integer of a model; `what` is the end of a function's name: NumClasses, GetNumFeature..."""
        value = c_int()
        self.check(getattr(self.library, f"LGBM_Booster{what}")(booster, byref(value)))
        return value.value

    def fast_config(self, booster: c_void_p, features: int) -> c_void_p:
        """Prepare the prediction of single float64 rows; takes about 2.5 KB. Free it with `free_fast_config`."""
        config = c_void_p()
        init = self.library.LGBM_BoosterPredictForMatSingleRowFastInit
        self.check(init(booster, _NORMAL_PREDICTION, 0, -1, _FLOAT64, features, _PARAMETERS, byref(config)))
        return config

    def free_fast_config(self, config: c_void_p) -> None:
        """Free what `fast_config` made."""
        self.check(self.library.LGBM_FastConfigFree(config))

    def predict_matrix(self, booster: c_void_p, dense: np.ndarray, answer: np.ndarray) -> None:
        """Predict the rows of `dense`, C-contiguous float32 or float64 of shape (rows, features), into `answer`,
        C-contiguous float64 with room for rows x classes.
        """
        self._predict_matrix(_NORMAL_PREDICTION, booster, dense, answer)

    def contributions(self, booster: c_void_p, dense: np.ndarray, answer: np.ndarray) -> None:
        """As `predict_matrix`, into room for rows x classes x (features + 1). The model must have its counts."""
        self._predict_matrix(_CONTRIBUTIONS, booster, dense, answer)

    def _predict_matrix(self, what: int, booster: c_void_p, dense: np.ndarray, answer: np.ndarray) -> None:
        dtype = _FLOAT64 if dense.dtype == np.float64 else _FLOAT32
        matrix = (dense.ctypes.data, dtype, *dense.shape, _ROW_MAJOR)
        kind = (what, 0, -1, _PARAMETERS)
        predict = self.library.LGBM_BoosterPredictForMat
        self.check(predict(booster, *matrix, *kind, byref(c_int64()), answer.ctypes.data))


def library_path() -> Path:
    """Where the installed wheel keeps the shared library."""
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package lightgbm is not installed", name="lightgbm")
    return Path(spec.submodule_search_locations[0]) / "lib" / "lib_lightgbm.so"


@cache
def open_api() -> tuple[Api, Api]:
    """The two handles: (keeps the interpreter lock, gives it up). Sets the library to one thread."""
    path = str(library_path())
    keeping, giving_up = Api(ctypes.PyDLL(path)), Api(ctypes.CDLL(path))
    keeping.check(keeping.library.LGBM_SetMaxThreads(1))
    return keeping, giving_up
