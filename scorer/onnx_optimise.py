"""Optimises an ONNX graph once, so that scorers need not do it at each load.

Contract: `optimise` takes bytes that have passed `registry.onnx_graph.check_onnx` and returns what scorers load with
all optimisations off. A graph with trees becomes ONNX Runtime's own format: a session of it takes a fifth of the
memory, as the lists of nodes, kept twice by a session of an ONNX file, are gone; the file is 2.4 times as large. Every
other graph stays ONNX, which is smaller in both places. ONNX Runtime reads the whole graph here: call it only where a
file may do harm.

Optimisations are those that fit every machine ("extended", none of the layouts of one CPU). Answers may differ from the
plain graph's in the last digits of float32, since operators are fused.

Versions: both formats name the versions of their operators, and a newer ONNX Runtime reads what an older one wrote:
ONNX always; its own format as a goal, which was missed twice (formats 4 and 5, in 1.8 and 1.13). An older one may
refuse what a newer one wrote. So the manifest has the version that wrote it, and the file as it was offered stays in
the store to be admitted anew. Bytes in ONNX Runtime's own format differ from run to run.

Source: onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import ArtifactRejectedError
from registry.onnx_graph import has_trees
from registry.probe_wire import most_artifact_bytes
from scorer.onnx_session import open_session, session_options


def optimise(data: bytes, memory: int | None = None) -> bytes:
    """Optimise a checked graph; takes 1-10 ms. `memory`: an empty file in memory (memfd) to use, for a process that may
    not make one; it must be able to open it for writing under its name in /proc/self/fd.

    Raises:
        ArtifactRejectedError: ONNX Runtime refuses the graph, or its optimised form is far larger.
    """
    with _file(memory) as number:
        _save(data, f"/proc/self/fd/{number}")
        size = os.fstat(number).st_size
        # Folding constants may make a graph larger; one that grows beyond this is not worth its memory.
        if size > most_artifact_bytes(len(data)):
            raise ArtifactRejectedError(f"the ONNX model of {len(data)} bytes grows to {size} when it is optimised")
        return os.pread(number, size, 0)


@contextmanager
def _file(given: int | None) -> Iterator[int]:
    if given is not None:
        yield given
        return
    made = os.memfd_create("optimised")
    try:
        yield made
    finally:
        os.close(made)


def _save(data: bytes, path: str) -> None:
    options = session_options(optimise=True)
    options.optimized_model_filepath = path
    options.add_session_config_entry("session.save_model_format", "ORT" if has_trees(data) else "ONNX")
    try:
        open_session(data, options)
    except Exception as error:  # see open_session
        raise ArtifactRejectedError(f"ONNX Runtime can't optimise the model: {error}") from error
