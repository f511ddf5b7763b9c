"""How every session of ONNX Runtime in this project is made; no other module imports the library.

Invariants: a session has one thread and neither an arena nor a memory plan of its own, so that many sessions fit into
one process (60 KB instead of 257 for a small network, at no cost in latency) and what a model allocates is freed with
it. Sessions are for the CPU. ONNX Runtime writes nothing to standard error but errors, and tells nobody of its use.
"""

from __future__ import annotations

import os
from typing import Any

# Read when the library is loaded; without it a thread is started that reports to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

_LOG_ERRORS_ONLY = 3

onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)


def session_options(*, optimise: bool) -> Any:
    """Options of one thread and no arena. `optimise`: fold constants and fuse operators in the way that fits every
    machine; else the graph is run as it is.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


def open_session(data: bytes, options: Any) -> Any:
    """A session on the bytes of a model, in ONNX or in ONNX Runtime's own format. It holds no reference to them.

    Raises:
        Exception: the runtime refuses them; its exceptions have no common base of their own.
    """
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    session._model_bytes = None  # noqa: SLF001 -- kept for `set_providers`, which nobody calls; a third of a small model
    return session
