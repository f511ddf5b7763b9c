"""The model.py of Triton's Python backend: one LightGBM model, its file beside this one."""

import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ["BENCH_SITE_PACKAGES"])  # Triton's interpreter doesn't read PYTHONPATH.

import lightgbm
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """See Triton's documentation."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load."""
        path = Path(args["model_repository"]) / args["model_version"] / "model.txt"
        self._booster = lightgbm.Booster(model_file=str(path))

    def execute(self, requests: list) -> list:
        """Predict what came together at once."""
        rows = [pb_utils.get_input_tensor_by_name(request, "input-0").as_numpy() for request in requests]
        predicted = self._booster.predict(np.concatenate(rows))
        answers, begin = [], 0
        for each in rows:
            part = np.asarray(predicted[begin : begin + len(each)], np.float64)[:, None]
            begin += len(each)
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("predict", part)]))
        return answers
