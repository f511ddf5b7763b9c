"""Strict check of a LightGBM text model, before any process may load it. Pure.

Contract: LightGBM trusts its model files; about half of all damaged ones crash or hang the process that loads them. A
text that passes `check_lightgbm_text` has exactly the lines that LightGBM 4 writes, with matching sizes and valid
indices, so that it loads and predicts. It says nothing about whether the predictions are right: a digest does that.
Costs about 0.15 ms a tree; meant for publishing, not for each load.

The format, as written by LightGBM's GBDT::SaveModelToString: a header of `key=value` lines, the trees one after
another (their lengths in bytes stand in the header as `tree_sizes`), `end of trees`, feature importances, parameters,
and a line of the Python package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate

import msgspec

from registry.errors import ArtifactRejectedError
from registry.lightgbm_tree import check_tree, integer, integers, read_fields, require
from registry.model import ModelSchema, OutputKind, OutputSchema

MAGIC = b"tree\n"
MAX_FEATURES = 10_000
MAX_CLASSES = 1_000
MAX_TREES = 20_000

_HEADER = "header"
_REQUIRED = {
    *("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx"),
    *("feature_names", "feature_infos", "tree_sizes"),
}
_KNOWN = _REQUIRED | {"objective", "average_output", "monotone_constraints"}

_MULTICLASS = {"multiclass", "multiclassova"}
_RANKING = {"lambdarank", "rank_xendcg"}
_ONE_NUMBER = {
    *("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
    *("cross_entropy", "cross_entropy_lambda"),
}
_OBJECTIVES = {"binary", *_MULTICLASS, *_RANKING, *_ONE_NUMBER}
_SIGMOID = r"sigmoid:(?=[0-9.]*[1-9])[0-9]{1,6}(?:\.[0-9]{1,20})?(?:e-?[0-9]{1,2})?"  # greater than 0
_OPTIONS = {
    "binary": re.compile(_SIGMOID),
    "multiclass": re.compile(r"num_class:[0-9]+"),
    "multiclassova": re.compile(rf"num_class:[0-9]+ {_SIGMOID}"),
}
_OTHER_OPTIONS = re.compile(r"(?:sqrt)?")

_RANGE_NUMBER = r"-?(?:[0-9.]+(?:e[-+]?[0-9]+)?|inf|nan)"
_FEATURE_INFO = re.compile(rf"none|\[{_RANGE_NUMBER}:{_RANGE_NUMBER}\]|-?[0-9]+(?::-?[0-9]+)*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_TAIL = re.compile(
    r"\nend of trees\n"
    r"(?:\nfeature_importances:\n(?:[^\n]+=[0-9.e+-]+\n)*)?"
    r"(?:\nparameters:\n(?:\[[a-z0-9_]+: [^\n]*\]\n)*\nend of parameters\n)?"
    r"(?:\npandas_categorical:(?P<categories>[^\n]*))?\n*",
)
_Categories = list[list[str | int | float | bool]] | None


def check_lightgbm_text(data: bytes) -> None:
    """Check that LightGBM can load `data` and predict with it without crashing, hanging or reading out of bounds.

    Raises:
        ArtifactRejectedError: names the tree and the field at fault.
    """
    header, trees, tail = read_sections(data)
    features, trees_an_iteration = _check_header(header)
    blocks = tree_blocks(header, trees)
    require(len(blocks) % trees_an_iteration == 0, _HEADER, "tree_sizes doesn't hold whole iterations")
    for number, block in enumerate(blocks):
        check_tree(block, number, features)
    pandas_categories(tail)


def pandas_categories(tail: str) -> _Categories:
    """The categories of each categorical column, as LightGBM's Python package notes them for a model that was trained
    on a data frame; None where there are none.

    Raises:
        ArtifactRejectedError: what follows the trees isn't what LightGBM writes.
    """
    found = _TAIL.fullmatch(tail)
    require(found, "what follows the trees", "is not what LightGBM writes")
    text = found["categories"] if found else None
    try:
        categories: _Categories = msgspec.json.decode(text or "null", type=_Categories)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ArtifactRejectedError("LightGBM model is damaged: pandas_categorical is no list of lists") from error
    return categories


def describe_lightgbm_text(data: bytes) -> ModelSchema:
    """Read features and outputs from the header; checks the header alone.

    One number of probability p becomes the probabilities [1 - p, p] of the classes "0" and "1". A model that was
    trained with an objective of the user's own has no objective in its text and gives its raw score.

    Raises:
        ArtifactRejectedError: the header is damaged, or no kind of output fits the objective.
    """
    header, _, _ = read_sections(data)
    _check_header(header)
    objective = header.get("objective", "").split(" ")[0]
    output = _output(objective, integer(header, "num_class", _HEADER))
    return ModelSchema(features=tuple(header["feature_names"].split(" ")), outputs=(output,))


def _output(objective: str, classes: int) -> OutputSchema:
    if objective == "binary" or objective in _MULTICLASS:
        labels = tuple(str(label) for label in range(max(2, classes)))
        return OutputSchema("probabilities", OutputKind.CLASS_PROBABILITIES, labels)
    if objective in _RANKING:
        return OutputSchema("scores", OutputKind.RANKING)
    return OutputSchema("value", OutputKind.REGRESSION)


def _decode(data: bytes) -> str:
    if not data.startswith(MAGIC):
        raise ArtifactRejectedError("not a LightGBM text model: it doesn't start with the line `tree`")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactRejectedError("LightGBM model is damaged: it is not UTF-8 text") from error
    require(not _CONTROL.search(text), "the text", "has control characters")
    return text


def read_sections(data: bytes) -> tuple[dict[str, str], str, str]:
    """(fields of the header, text of all trees, the tail from the line `end of trees` on).

    Raises:
        ArtifactRejectedError: it is no LightGBM text, it is cut off, or its header has an unknown line.
    """
    text = _decode(data)
    start = text.find("\nTree=0\n") + 1
    end = text.find("\nend of trees\n")
    require(start > 0, "the text", "has no tree")
    require(end > start, "the text", "has no line `end of trees`; it may be cut off")
    header = read_fields([line for line in text[len(MAGIC) : start].split("\n") if line], _HEADER, _KNOWN)
    for key in _REQUIRED - header.keys():
        require(False, _HEADER, f"has no {key}")
    return header, text[start : end + 1], text[end:]


def _check_header(header: Mapping[str, str]) -> tuple[int, int]:
    """(number of features, trees an iteration)."""
    version = header["version"]
    require(version == "v4", _HEADER, f"version is {version[:20]!r}, wanted v4: save the model with LightGBM 4")
    features = integer(header, "max_feature_idx", _HEADER) + 1
    require(1 <= features <= MAX_FEATURES, _HEADER, f"max_feature_idx is {features - 1}, wanted 0-{MAX_FEATURES - 1}")
    require(header.get("average_output", "") == "", _HEADER, "average_output has a value")
    require(0 <= integer(header, "label_index", _HEADER) < 2**31, _HEADER, "label_index is out of range")
    _check_features(header, features)
    return features, _check_objective(header)


def _check_features(header: Mapping[str, str], features: int) -> None:
    names = header["feature_names"].split(" ")
    require(len(names) == features, _HEADER, f"feature_names has {len(names)} names, wanted {features}")
    require("" not in names and len(set(names)) == features, _HEADER, "feature_names has an empty or repeated name")
    infos = header["feature_infos"].split(" ")
    require(len(infos) == features, _HEADER, f"feature_infos has {len(infos)} entries, wanted {features}")
    require(all(_FEATURE_INFO.fullmatch(info) for info in infos), _HEADER, "feature_infos has an unknown entry")
    if "monotone_constraints" in header:
        constraints = integers(header, "monotone_constraints", features, _HEADER)
        require((abs(constraints) <= 1).all(), _HEADER, "monotone_constraints is outside -1 to 1")


def _check_objective(header: Mapping[str, str]) -> int:
    """Trees an iteration: one a class of a multiclass model, else one."""
    classes = integer(header, "num_class", _HEADER)
    require(1 <= classes <= MAX_CLASSES, _HEADER, f"num_class is {classes}, wanted 1-{MAX_CLASSES}")
    name, _, options = header.get("objective", "regression").partition(" ")
    require(name in _OBJECTIVES, _HEADER, f"objective {name[:40]!r} is unknown")
    fits = _OPTIONS.get(name, _OTHER_OPTIONS).fullmatch(options)
    require(fits, _HEADER, f"objective {name} has unknown or missing options")
    if name in _MULTICLASS:
        agree = classes > 1 and options.split(" ")[0] == f"num_class:{classes}"
        require(agree, _HEADER, "objective and num_class disagree")
    else:
        require(classes == 1, _HEADER, f"has {classes} outputs a row, which objective {name} doesn't have")
    trees_an_iteration = integer(header, "num_tree_per_iteration", _HEADER)
    require(trees_an_iteration == classes, _HEADER, f"num_tree_per_iteration is not num_class, {classes}")
    return trees_an_iteration


def tree_blocks(header: Mapping[str, str], trees: str) -> list[str]:
    """The text of each tree. LightGBM cuts at `tree_sizes` without a look at what is there."""
    sizes_text = header["tree_sizes"]
    sizes = [int(size) for size in integers(header, "tree_sizes", sizes_text.count(" ") + 1, _HEADER)]
    require(len(sizes) <= MAX_TREES, _HEADER, f"has {len(sizes)} trees, wanted at most {MAX_TREES}")
    fits = min(sizes) > 0 and sum(sizes) == len(trees) and trees.isascii()
    require(fits, _HEADER, "tree_sizes doesn't fit the trees")
    ends = list(accumulate(sizes))
    blocks = [trees[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    for number, block in enumerate(blocks):
        whole = block.startswith(f"Tree={number}\n") and block.endswith("\n")
        require(whole, f"tree {number}", "doesn't begin and end where tree_sizes says")
    return blocks
