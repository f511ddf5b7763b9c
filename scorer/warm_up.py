"""Uses every part of admission once, on two tiny models of our own.

Contract: after `warm_up` an admission imports nothing and opens no file of Python's, so it works where there are none
to open; and what the engines set up at their first model (25 ms for ONNX Runtime) is there, for all processes that
are forked from this one. It leaves no thread behind. Call it before the sandbox, never after.
"""

from __future__ import annotations

from registry.model import Runtime
from registry.probe_wire import Order, Rewritten, frame
from scorer.admission import admit

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


def warm_up() -> None:
    """See the module. Takes about 30 ms."""
    for runtime, data in ((Runtime.LIGHTGBM, _LIGHTGBM), (Runtime.ONNX, _ONNX)):
        rewritten: list[bytes] = []
        found = admit(data, Order(runtime), rewritten.append)
        frame(Rewritten(rewritten[0]))
        frame(found)
