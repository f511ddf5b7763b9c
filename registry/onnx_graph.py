"""Which ONNX models a scorer may load. Pure.

Contract: a model that passes `check_onnx` has only operators whose cost and memory are bounded by the size of the model
and the number of rows: no loops, no subgraphs, no operator that makes a tensor as large as a number in the input says,
no trees with cycles (ONNX Runtime follows them for ever, and nothing but a kill ends it), and no file beside it. That
the operators are used rightly is left to ONNX Runtime, which checks it at load.
"""

from __future__ import annotations

from registry.errors import ArtifactRejectedError
from registry.onnx_wire import Node, OnnxModel, read_model

MAX_NODES = 10_000

_ML_DOMAIN = "ai.onnx.ml"
_ML_OPERATORS = """
ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
_OPERATORS = """
Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Compress Concat
Constant Conv Cos Cosh CumSum DepthToSpace Div Dropout Elu Equal Erf Exp Flatten Floor Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax
Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
MatMul Max MaxPool Mean Min Mish Mod Mul Neg NonZero Not Or PRelu Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements
ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Split Sqrt Squeeze StringNormalizer Sub
Sum Swish Tan Tanh TfIdfVectorizer ThresholdedRelu TopK Transpose Unsqueeze Where Xor
"""
_ALLOWED = {
    "": frozenset(_OPERATORS.split()),
    "ai.onnx": frozenset(_OPERATORS.split()),
    _ML_DOMAIN: frozenset(_ML_OPERATORS.split()),
}

_LABEL_ATTRIBUTES = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
_TREES = {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}
_TREE_ATTRIBUTES = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids")


def check_onnx(data: bytes) -> None:
    """Check that a scorer may load `data`.

    Raises:
        ArtifactRejectedError: names the operator or the property that is not accepted.
    """
    model = read_model(data)
    _check_model(model)
    for node in model.nodes:
        _check_node(node)
        if node.operator in _TREES:
            _check_trees(node)


def read_class_labels(data: bytes) -> tuple[str, ...]:
    """Labels in the classifier operator of the graph, as text; empty if there is none or they disagree.

    Raises:
        ArtifactRejectedError: it is no ONNX model.
    """
    found = {
        tuple(map(str, attribute.integers or attribute.strings))
        for node in read_model(data).nodes
        for name, attribute in node.attributes.items()
        if node.domain == _ML_DOMAIN and name in _LABEL_ATTRIBUTES
    } - {()}
    return found.pop() if len(found) == 1 else ()


def _check_model(model: OnnxModel) -> None:
    if model.has_external_data:
        raise ArtifactRejectedError("the ONNX model keeps weights in another file; save it as one file")
    if model.has_functions:
        raise ArtifactRejectedError("the ONNX model has functions of its own, which are not accepted")
    if len(model.nodes) > MAX_NODES:
        raise ArtifactRejectedError(
            f"the ONNX model has {len(model.nodes)} operators, at most {MAX_NODES} are accepted"
        )


def _check_node(node: Node) -> None:
    if node.operator not in _ALLOWED.get(node.domain, ()):
        name = f"{node.domain}.{node.operator}" if node.domain else node.operator
        raise ArtifactRejectedError(f"the ONNX operator {name[:80]} is not accepted")
    if any(attribute.has_graph for attribute in node.attributes.values()):
        raise ArtifactRejectedError(f"the ONNX operator {node.operator} has a subgraph, which is not accepted")


def _check_trees(node: Node) -> None:
    """Remove nodes whose children are all removed, until nothing changes; what is left lies on or above a cycle."""
    children = _children(node)
    parents: dict[tuple[int, int], list[tuple[int, int]]] = {key: [] for key in children}
    for key, below in children.items():
        for child in below:
            if child not in parents:
                raise ArtifactRejectedError(f"ONNX {node.operator}: tree {key[0]} has a child that does not exist")
            parents[child].append(key)
    waiting = {key: len(below) for key, below in children.items()}
    done = [key for key, count in waiting.items() if not count]
    for key in done:
        for parent in parents[key]:
            waiting[parent] -= 1
            if not waiting[parent]:
                done.append(parent)  # the list is the queue of the walk
    if len(done) < len(children):
        tree = min(key[0] for key, count in waiting.items() if count)
        raise ArtifactRejectedError(f"ONNX {node.operator}: tree {tree} has a cycle")


def _children(node: Node) -> dict[tuple[int, int], tuple[tuple[int, int], ...]]:
    """(tree, node) -> the nodes below it, none for a leaf."""
    lists = [node.attributes[name].integers if name in node.attributes else [] for name in _TREE_ATTRIBUTES]
    modes = node.attributes["nodes_modes"].strings if "nodes_modes" in node.attributes else []
    if len({len(modes), *map(len, lists)}) != 1:
        raise ArtifactRejectedError(f"ONNX {node.operator}: its lists of nodes differ in length")
    children: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
        (tree, number): () if mode == "LEAF" else ((tree, true), (tree, false))
        for tree, number, true, false, mode in zip(*lists, modes, strict=True)
    }
    if len(children) != len(modes):
        raise ArtifactRejectedError(f"ONNX {node.operator}: a node is there twice")
    return children
