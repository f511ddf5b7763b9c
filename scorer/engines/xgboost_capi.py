"""The part of XGBoost's C API that scoring needs, by ctypes.

The shared library of the `xgboost` or `xgboost-cpu` wheel is opened without importing the package: the import drags in
pandas, scikit-learn and pyarrow, 125 MB and a second and a half; the library takes 6 MB and a few milliseconds. Each
function exists twice, with and without the interpreter lock, as in `scorer.engines.lightgbm_capi`.

Invariants: every booster runs one thread. A matrix is passed as its address, in JSON: the library reads it during the
call, and answers with a pointer to memory of the calling thread that holds until that thread's next call. The proxy of
`Api.predict` is used only where the interpreter lock is kept. Reference: XGBoost's include/xgboost/c_api.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from ctypes import POINTER, byref, c_char_p, c_float, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_CONFIG = (
    '{"type":%d,"training":false,"iteration_begin":0,"iteration_end":%d,"strict_shape":true,"missing":NaN,"cache_id":0}'
)
_ARRAY = '{"data":[%d,true],"shape":[%d,%d],"strides":null,"typestr":"%s","version":3}'
_THREAD = b'{"nthread":1,"verbosity":0}'  # of the calling thread
_DENSE = b'{"missing":NaN,"nthread":1}'
_PREDICTION, _CONTRIBUTIONS = 0, 2

_UINT64S, _FLOATS = POINTER(c_uint64), POINTER(c_float)
_ANSWER = [c_char_p, POINTER(_UINT64S), POINTER(c_uint64), POINTER(_FLOATS)]  # config, shape, dimensions, numbers
_SIGNATURES: dict[str, list[Any]] = {
    "XGBSetGlobalConfig": [c_char_p],
    "XGBoosterCreate": [c_void_p, c_uint64, POINTER(c_void_p)],
    "XGBoosterFree": [c_void_p],
    "XGBoosterSetParam": [c_void_p, c_char_p, c_char_p],
    "XGBoosterLoadModelFromBuffer": [c_void_p, c_char_p, c_uint64],
    "XGBoosterGetNumFeature": [c_void_p, POINTER(c_uint64)],
    "XGBoosterGetAttr": [c_void_p, c_char_p, POINTER(c_char_p), POINTER(ctypes.c_int)],
    "XGBoosterPredictFromDense": [c_void_p, c_char_p, c_char_p, c_void_p, *_ANSWER[1:]],
    "XGBoosterPredictFromDMatrix": [c_void_p, c_void_p, *_ANSWER],
    "XGDMatrixCreateFromDense": [c_char_p, c_char_p, POINTER(c_void_p)],
    "XGDMatrixFree": [c_void_p],
    "XGProxyDMatrixCreate": [POINTER(c_void_p)],
}


_WHERE = re.compile(r"\A\[[0-9:]+\] \S+:[0-9]+: ")  # the time and a place in the library's source


class XGBoostError(Exception):
    """The library refused a call; the message is its own, without time, place and stack."""


class Api:
    """The functions of one handle of the library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, argtypes in _SIGNATURES.items():
            getattr(library, name).argtypes = argtypes
        library.XGBGetLastError.restype = c_char_p
        self.library = library
        self._proxy = c_void_p()

    def make_proxy(self) -> None:
        """Let `predict` use one proxy of a matrix again and again: making one takes 25 us of 45. Never freed."""
        self.check(self.library.XGProxyDMatrixCreate(byref(self._proxy)))

    def check(self, return_code: int) -> None:
        """Raise XGBoostError if a call failed. Must follow the call on the same thread."""
        if return_code:
            text = self.library.XGBGetLastError().decode(errors="replace")
            raise XGBoostError(_WHERE.sub("", text.partition("\nStack trace")[0]).strip())

    def load(self, data: bytes) -> c_void_p:
        """Parse a model; free the handle with `free`. The library copies what it needs of `data`."""
        booster = c_void_p()
        self.check(self.library.XGBSetGlobalConfig(_THREAD))  # the one of a booster isn't heeded before it is loaded
        self.check(self.library.XGBoosterCreate(None, 0, byref(booster)))
        try:
            self.check(self.library.XGBoosterSetParam(booster, b"nthread", b"1"))
            self.check(self.library.XGBoosterLoadModelFromBuffer(booster, data, len(data)))
        except XGBoostError:
            self.free(booster)
            raise
        return booster

    def free(self, booster: c_void_p) -> None:
        """Free a model."""
        self.check(self.library.XGBoosterFree(booster))

    def features(self, booster: c_void_p) -> int:
        """How many features a model has."""
        count = c_uint64()
        self.check(self.library.XGBoosterGetNumFeature(booster, byref(count)))
        return count.value

    def attribute(self, booster: c_void_p, name: str) -> str | None:
        """A text that was saved with the model; None where there is none."""
        text, found = c_char_p(), ctypes.c_int()
        self.check(self.library.XGBoosterGetAttr(booster, name.encode(), byref(text), byref(found)))
        return (text.value or b"").decode(errors="replace") if found.value else None

    def predict(self, booster: c_void_p, matrix: bytes, config: bytes) -> np.ndarray:
        """Predict the rows of a matrix (`array_interface`); float32, of shape (rows, outputs). The caller owns it."""
        shape, dimensions, numbers = _UINT64S(), c_uint64(), _FLOATS()
        predict = self.library.XGBoosterPredictFromDense
        self.check(predict(booster, matrix, config, self._proxy, byref(shape), byref(dimensions), byref(numbers)))
        return _copy(shape, dimensions.value, numbers)

    def contributions(self, booster: c_void_p, matrix: bytes, config: bytes) -> np.ndarray:
        """Contributions (`contributions_config`) of the rows of a matrix, float32, of shape (rows, outputs, features +
        1). The caller owns it.
        """
        data = c_void_p()
        self.check(self.library.XGBSetGlobalConfig(_THREAD))
        self.check(self.library.XGDMatrixCreateFromDense(matrix, _DENSE, byref(data)))
        try:
            shape, dimensions, numbers = _UINT64S(), c_uint64(), _FLOATS()
            predict = self.library.XGBoosterPredictFromDMatrix
            self.check(predict(booster, data, config, byref(shape), byref(dimensions), byref(numbers)))
            return _copy(shape, dimensions.value, numbers)
        finally:
            self.check(self.library.XGDMatrixFree(data))


def _copy(shape: Any, dimensions: int, numbers: Any) -> np.ndarray:
    sizes = shape[:dimensions]
    count = 1
    for size in sizes:
        count *= size
    values: np.ndarray = np.frombuffer(ctypes.string_at(numbers, 4 * count), np.float32)
    return values.reshape(sizes)


def array_interface(dense: np.ndarray) -> bytes:
    """A C-contiguous matrix as the library wants it; it must be alive during the call."""
    return (_ARRAY % (dense.__array_interface__["data"][0], *dense.shape, dense.dtype.str)).encode()


def prediction_config(rounds: int) -> bytes:
    """Predict with the first so many boosting rounds; 0: all."""
    return (_CONFIG % (_PREDICTION, rounds)).encode()


def contributions_config(rounds: int) -> bytes:
    """As `prediction_config`, for contributions."""
    return (_CONFIG % (_CONTRIBUTIONS, rounds)).encode()


def library_path() -> Path:
    """Where the installed wheel keeps the shared library. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec("xgboost")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package xgboost is not installed", name="xgboost")
    return Path(spec.submodule_search_locations[0]) / "lib" / "libxgboost.so"


@cache
def open_api() -> tuple[Api, Api]:
    """The two handles: (keeps the interpreter lock, gives it up). Raises ModuleNotFoundError."""
    path = str(library_path())
    keeping, giving_up = Api(ctypes.PyDLL(path)), Api(ctypes.CDLL(path))
    keeping.make_proxy()
    return keeping, giving_up
