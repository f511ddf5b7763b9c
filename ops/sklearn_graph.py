"""What has to be added to skl2onnx, so that its graphs are right and fit the scorers.

Of trees, skl2onnx forgets to which side a forest sends a missing value, writes booleans where protobuf 7 wants
integers, rounds the thresholds of HistGradientBoosting, which scikit-learn doesn't, and declares outputs of the wrong
type when the input is double. It fills in missing values by an operator that ONNX Runtime has for floats alone. Of
tables, it makes an input of every column, where scorers send all numbers in one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ops.convert_draft import OPSETS
from ops.sample_rows import Column
from registry.errors import ArtifactRejectedError

_MISSING = "nodes_missing_value_tracks_true"


def conversions() -> dict[type, Callable[..., None]]:
    """Conversion functions for skl2onnx, by class of the estimator."""
    from sklearn import ensemble, impute, tree

    trees = [
        tree.DecisionTreeClassifier, tree.DecisionTreeRegressor, tree.ExtraTreeClassifier, tree.ExtraTreeRegressor,
        ensemble.RandomForestClassifier, ensemble.RandomForestRegressor, ensemble.ExtraTreesClassifier,
        ensemble.ExtraTreesRegressor, ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor,
    ]  # fmt: skip
    return dict.fromkeys(trees, _convert_trees) | {impute.SimpleImputer: _convert_imputer}


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """As skl2onnx does it."""
    from skl2onnx.common._registration import get_converter

    get_converter(operator.type)(scope, operator, container)


def _convert_trees(scope: Any, operator: Any, container: Any) -> None:
    _convert(scope, operator, _TreeContainer(container, operator.raw_operator))


class _TreeContainer:
    """Stands in for the container that skl2onnx writes the operators of one estimator to, and mends its trees."""

    def __init__(self, container: Any, estimator: Any) -> None:
        self._container = container
        self._estimator = estimator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> Any:
        """As the container's own."""
        if _MISSING in attributes:
            attributes[_MISSING] = _missing_sides(self._estimator) or [int(side) for side in attributes[_MISSING]]
        if _MISSING in attributes and hasattr(self._estimator, "_predictors"):
            attributes["nodes_values"] = _exact_thresholds(self._estimator)
            attributes = _in_double(attributes) | {"op_version": 3}
        return self._container.add_node(op_type, inputs, outputs, **attributes)


def _missing_sides(estimator: Any) -> list[int]:
    """For each node of each tree, in order, whether a missing value goes to the left; empty where skl2onnx knows it."""
    members = [] if hasattr(estimator, "_predictors") else getattr(estimator, "estimators_", [estimator])
    return [int(side) for member in members for side in member.tree_.missing_go_to_left]


def _exact_thresholds(boosting: Any) -> np.ndarray:
    """Of each node of each tree of a HistGradientBoosting model, in order."""
    nodes = np.concatenate([tree.nodes for trees in boosting._predictors for tree in trees])  # noqa: SLF001
    return np.where(nodes["is_leaf"], 0.0, nodes["num_threshold"])


def _in_double(attributes: dict[str, Any]) -> dict[str, Any]:
    """The same trees, whose thresholds and leaves are double: what ONNX Runtime compares double input with."""
    from onnx import TensorProto, helper

    numbers = attributes.keys() & {"nodes_values", "base_values", "class_weights", "target_weights"}
    kept = {name: value for name, value in attributes.items() if name not in numbers and name != "nodes_hitrates"}
    for name in sorted(numbers):
        values = np.asarray(attributes[name], dtype=np.float64).ravel()
        kept[f"{name}_as_tensor"] = helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], values.tolist())
    return kept


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Where(IsNaN(x), statistics, x), since ONNX Runtime has no Imputer for doubles."""
    imputer, (source,), (target,) = operator.raw_operator, operator.inputs, operator.outputs
    statistics = np.asarray(imputer.statistics_)
    is_plain = imputer.indicator_ is None and isinstance(imputer.missing_values, float)
    if not is_plain or statistics.dtype.kind != "f" or np.isnan(statistics).any() or len(operator.inputs) != 1:
        _convert(scope, operator, container)
        return
    fill, missing = (scope.get_unique_variable_name(name) for name in ("fill", "missing"))
    kind = _element_type(source)
    container.add_initializer(fill, kind, [1, len(statistics)], statistics.tolist())
    container.add_node("IsNaN", [source.full_name], [missing], name=scope.get_unique_operator_name("IsNaN"))
    container.add_node(
        "Where", [missing, fill, source.full_name], [target.full_name], name=scope.get_unique_operator_name("Where")
    )


def _element_type(variable: Any) -> int:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    return int(TensorProto.DOUBLE if isinstance(variable.type, DoubleTensorType) else TensorProto.FLOAT)


def append_graph(model: Any, tail: Any) -> Any:
    """`model`, whose only output goes into the only input X of the graph `tail`. Its names get a prefix, so that they
    differ from those of `tail`, whose operators mean the same in all versions.
    """
    from onnx import compose

    joined = compose.add_prefix(model, "before ")
    source = joined.graph.output[0].name
    del joined.graph.output[:]
    for node in tail.node:
        joined.graph.node.append(node)
        joined.graph.node[-1].input[:] = [source if name == "X" else name for name in node.input]
    joined.graph.output.extend(tail.output)
    return joined


def declare(model: Any) -> None:
    """Name each set of operators once. Say that trees answer in single precision, as they do whatever goes in; skl2onnx
    says double for those.
    """
    from onnx import TensorProto, helper

    versions = OPSETS | {opset.domain: opset.version for opset in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    trees = [node for node in model.graph.node if node.op_type.startswith("TreeEnsemble")]
    answers = {node.output[-1] for node in trees}
    for output in model.graph.output:
        if output.name in answers:
            output.type.tensor_type.elem_type = TensorProto.FLOAT


def accept_unknown(model: Any) -> None:
    """A category that an encoder never saw is none of its categories, instead of failing all rows of a batch, whatever
    `handle_unknown` says: scorers can't raise an error for one row.
    """
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "OneHotEncoder":
            kept = [attribute for attribute in node.attribute if attribute.name != "zeros"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("zeros", 1)])


def join_inputs(model: Any, columns: Sequence[Column]) -> None:
    """Make one input X of all numeric columns, and give the text columns their own names again, which skl2onnx changes
    where they have spaces and the like. Changes `model`, whose inputs are `columns`, in order.
    """
    graph = model.graph
    made = [tensor.name for tensor in graph.input]
    kinds = {tensor.name: tensor.type.tensor_type.elem_type for tensor in graph.input}
    pairs = list(zip(made, columns, strict=True))
    _rename(graph, {name: column.name for name, column in pairs if column.is_text and name != column.name})
    numeric = [name for name, column in pairs if not column.is_text]
    inputs = [_tensor(column.name, kinds[name], 1) for name, column in pairs if column.is_text]
    del graph.input[:]
    if numeric:
        inputs.insert(0, _tensor(_free_name(graph, "X"), kinds[numeric[0]], len(numeric)))
        _add_split(model, inputs[0].name, numeric)
    graph.input.extend(inputs)


def _tensor(name: str, kind: int, width: int) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, [None, width])


def _add_split(model: Any, source: str, names: list[str]) -> None:
    """Split got its widths as an attribute before version 13 of the operators, and as an input since."""
    from onnx import TensorProto, helper

    widths = [1] * len(names)
    if next(opset.version for opset in model.opset_import if not opset.domain) < 13:
        node = helper.make_node("Split", [source], names, axis=1, split=widths)
    else:
        tensor = helper.make_tensor(_free_name(model.graph, "widths"), TensorProto.INT64, [len(names)], widths)
        model.graph.initializer.append(tensor)
        node = helper.make_node("Split", [source, tensor.name], names, axis=1)
    nodes = [node, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _names(graph: Any) -> set[str]:
    ends = [tensor.name for group in (graph.input, graph.initializer) for tensor in group]
    return {*ends, *(name for node in graph.node for name in (*node.input, *node.output))}


def _free_name(graph: Any, name: str) -> str:
    taken = _names(graph)
    while name in taken:
        name += "_"
    return name


def _rename(graph: Any, names: dict[str, str]) -> None:
    taken = _names(graph) & set(names.values())
    if taken:
        raise ArtifactRejectedError(f"the text column {taken.pop()!r} has a name that the graph needs: rename it")
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
