"""Which ONNX models a scorer may load. Pure.

Contract: the cost and memory of a model that passes `check_onnx` depend on the number of rows alone, never on what is
in them, so that a trial with many rows tells what any request may cost: no loops, no subgraphs, no tensor as large as a
number in the input says (`registry.onnx_sizes`), no trees with cycles (`registry.onnx_trees`), and no file beside it.
That they are small is for the trial to find out, and that the operators are used rightly for ONNX Runtime, which checks
it at load.
"""

from __future__ import annotations

from registry.errors import ArtifactRejectedError
from registry.onnx_sizes import check_sizes
from registry.onnx_trees import TREE_OPERATORS, check_trees
from registry.onnx_wire import Node, OnnxModel, read_model

MAX_NODES = 10_000
MAX_FEATURES = 10_000  # of its input; whoever has the shape checks it

_ML_DOMAIN = "ai.onnx.ml"
_ML_OPERATORS = """
ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
_OPERATORS = """
Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Compress Concat
Constant ConstantOfShape Conv Cos Cosh CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor
Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization
HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual
Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax
Softplus Softsign Split Sqrt Squeeze StringNormalizer Sub Sum Swish Tan Tanh TfIdfVectorizer ThresholdedRelu Tile TopK
Transpose Unsqueeze Where Xor
"""
ALLOWED = {
    "": frozenset(_OPERATORS.split()),
    "ai.onnx": frozenset(_OPERATORS.split()),
    _ML_DOMAIN: frozenset(_ML_OPERATORS.split()),
}

# ONNX Runtime counts up to these for each word, however few words there are.
_COUNTED_ATTRIBUTES = ("max_gram_length", "max_skip_count")
_MOST_COUNTED = 100
_LABEL_ATTRIBUTES = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")


def check_onnx(data: bytes) -> None:
    """Check that a scorer may load `data`.

    Raises:
        ArtifactRejectedError: names the operator or the property that is not accepted.
    """
    model = read_model(data)
    _check_model(model)
    for node in model.nodes:
        _check_node(node)
        if node.operator in TREE_OPERATORS:
            check_trees(node)
    check_sizes(model)


def has_trees(data: bytes) -> bool:
    """Whether the graph has an operator of trees.

    Raises:
        ArtifactRejectedError: it is no ONNX model.
    """
    return any(node.operator in TREE_OPERATORS for node in read_model(data).nodes)


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
    if model.has_sparse_weights:
        raise ArtifactRejectedError("the ONNX model has sparse weights, which may unfold to any size; save them dense")
    if model.has_functions:
        raise ArtifactRejectedError("the ONNX model has functions of its own, which are not accepted")
    if len(model.nodes) > MAX_NODES:
        raise ArtifactRejectedError(
            f"the ONNX model has {len(model.nodes)} operators, at most {MAX_NODES} are accepted"
        )


def _check_node(node: Node) -> None:
    if node.operator not in ALLOWED.get(node.domain, ()):
        name = f"{node.domain}.{node.operator}" if node.domain else node.operator
        raise ArtifactRejectedError(f"the ONNX operator {name[:80]} is not accepted")
    if any(attribute.has_graph for attribute in node.attributes.values()):
        raise ArtifactRejectedError(f"the ONNX operator {node.operator} has a subgraph, which is not accepted")
    for name in _COUNTED_ATTRIBUTES:
        if name in node.attributes and node.attributes[name].integer > _MOST_COUNTED:
            raise ArtifactRejectedError(f"the ONNX operator {node.operator} has a {name} above {_MOST_COUNTED}")
