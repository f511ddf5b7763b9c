"""Uses every part of admission once, on a tiny model of our own for each engine that is installed.

Contract: after `warm_up` an admission imports nothing and opens no file of Python's, so it works where there are none
to open; and what the engines set up at their first model (25 ms for ONNX Runtime) is there, for all processes that
are forked from this one. It leaves no thread behind. Call it before the sandbox, never after.
"""

from __future__ import annotations

from registry.errors import ArtifactRejectedError
from registry.model import Runtime
from registry.probe_wire import Order, Rewritten, frame
from scorer.admission import admit, runtime_version

# One split: 1.5 up to 0.5, else 2.5.
_LIGHTGBM = b"""tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=0
objective=regression
feature_names=x
feature_infos=[0:1]
tree_sizes=150

Tree=0
num_leaves=2
num_cat=0
split_feature=0
threshold=0.5
decision_type=2
left_child=-1
right_child=-2
leaf_value=1.5 2.5
is_linear=0
shrinkage=1


end of trees
"""

# A ModelProto of version 8, opset 17: y = -x, both float [N, 1]; as `onnx.helper` writes it.
_ENDS = [b"\n\x01" + name + b"\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x01" for name in (b"x", b"y")]
_GRAPH = b'\n\x0b\n\x01x\x12\x01y"\x03Neg\x12\x01gZ\x14' + _ENDS[0] + b"b\x14" + _ENDS[1]
_ONNX = b"\x08\x08\x12\x01w:" + bytes([len(_GRAPH)]) + _GRAPH + b"B\x04\n\x00\x10\x11"


# The LightGBM tree again; a row goes left below the threshold.
_XGBOOST = b"""{"version": [3, 0, 0], "learner": {"attributes": {}, "feature_names": ["x"], "feature_types": ["float"],
"objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
"learner_model_param": {"base_score": "0", "num_class": "0", "num_feature": "1", "num_target": "1"},
"gradient_booster": {"name": "gbtree", "model": {"tree_info": [0],
"gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"}, "trees": [{"id": 0,
"tree_param": {"num_nodes": "3", "num_deleted": "0", "num_feature": "1", "size_leaf_vector": "1"},
"base_weights": [0.0, 0.0, 0.0], "loss_changes": [0.0, 0.0, 0.0], "sum_hessian": [2.0, 1.0, 1.0],
"parents": [2147483647, 0, 0],
"left_children": [1, -1, -1], "right_children": [2, -1, -1], "default_left": [0, 0, 0], "split_type": [0, 0, 0],
"split_indices": [0, 0, 0], "split_conditions": [0.5, 1.5, 2.5],
"categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": []}]}}}}"""

_MODELS = {Runtime.LIGHTGBM: _LIGHTGBM, Runtime.XGBOOST: _XGBOOST, Runtime.ONNX: _ONNX}


def warm_up() -> None:
    """See the module. Takes about 30 ms."""
    for runtime, data in _MODELS.items():
        if _is_installed(runtime):
            frame(admit(data, Order(runtime), _frame))


def _frame(rewritten: Rewritten) -> None:
    frame(rewritten)


def _is_installed(runtime: Runtime) -> bool:
    """Without its engine each model is refused, with a text that says so."""
    try:
        runtime_version(runtime)
    except ArtifactRejectedError:
        return False
    return True
