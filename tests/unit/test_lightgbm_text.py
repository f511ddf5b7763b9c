from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ArtifactRejectedError
from registry.lightgbm_text import check_lightgbm_text, describe_lightgbm_text
from scorer.engines.lightgbm import ENGINE


def refit_tree_sizes(data: bytes) -> bytes:
    """Write the lengths of the trees anew after an edit, so that the check sees the edit and not the lengths."""
    start, end = data.index(b"\nTree=0\n") + 1, data.index(b"\nend of trees")
    blocks = re.split(rb"(?<=\n)(?=Tree=\d+\n)", data[start : end + 1])
    sizes = b" ".join(str(len(block)).encode() for block in blocks)
    return re.sub(rb"tree_sizes=[^\n]*", b"tree_sizes=" + sizes, data, count=1)


def edit(data: bytes, pattern: bytes, replacement: bytes) -> bytes:
    changed, count = re.subn(pattern, replacement, data, count=1)
    assert count == 1, pattern
    return refit_tree_sizes(changed)


def test_every_model_that_the_library_writes_passes(lightgbm_models: dict[str, Any]) -> None:
    for trained in lightgbm_models.values():
        check_lightgbm_text(trained.artifact)


@pytest.mark.parametrize(
    ("pattern", "replacement", "told"),
    [
        (rb"left_child=\S+", b"left_child=0", "tree 0 left_child or right_child points upwards"),
        (rb"left_child=\S+", b"left_child=99", "tree 0 left_child and right_child don't form one tree"),
        (rb"right_child=(\S+) \S+", rb"right_child=\1 \1", "tree 0 left_child and right_child don't form one tree"),
        (rb"split_feature=\S+", b"split_feature=30", "tree 0 split_feature is outside 0-29"),
        (rb"split_feature=\S+", b"split_feature=-1", "tree 0 split_feature is outside 0-29"),
        (rb"split_feature=\S+ ", b"split_feature=", "tree 0 split_feature has .* entries"),
        (rb"threshold=\S+", b"threshold=nan", "tree 0 threshold is not a number"),
        (rb"threshold=\S+", b"threshold=1_0", "tree 0 threshold is not a list of numbers"),
        (rb"decision_type=\S+", b"decision_type=16", "tree 0 decision_type is unknown"),
        (rb"decision_type=\S+", b"decision_type=1", "tree 0 has categorical splits, but num_cat is 0"),
        (rb"leaf_value=\S+", b"leaf_value=inf", "tree 0 leaf_value is not finite"),
        (rb"leaf_count=\S+", b"leaf_count=x", "tree 0 leaf_count is not a list of numbers"),
        (rb"num_leaves=\d+", b"num_leaves=2147483647", "tree 0 num_leaves is 2147483647"),
        (rb"num_leaves=\d+", b"num_leaves=1", "tree 0 leaf_value has .* entries, wanted 1"),
        (rb"num_cat=0", b"num_cat=1", "tree 0 has no cat_boundaries"),
        (rb"shrinkage=\S+", b"shrinkage=nan", "tree 0 shrinkage is not finite"),
        (rb"is_linear=0", b"is_linear=1", "linear trees are not supported"),
        (rb"Tree=1\n", b"Tree=7\n", "tree 1"),
        (rb"is_linear=0\n", b"is_linear=0\nsurprise=1\n", "tree 0 has an unknown line 'surprise=1'"),
        (rb"num_cat=0\n", b"num_cat=0\nnum_cat=0\n", "tree 0 has num_cat twice"),
        (rb"version=v4", b"version=v3", "save the model with LightGBM 4"),
        (rb"num_class=1", b"num_class=0", "num_class is 0"),
        (rb"num_class=1", b"num_class=3", "3 outputs a row"),
        (rb"num_tree_per_iteration=1", b"num_tree_per_iteration=0", "num_tree_per_iteration is not num_class"),
        (rb"max_feature_idx=29", b"max_feature_idx=2147483647", "max_feature_idx is"),
        (rb"max_feature_idx=29", b"max_feature_idx=28", "feature_names has 30 names, wanted 29"),
        (rb"objective=binary", b"objective=bogus", "objective 'bogus' is unknown"),
        (rb"sigmoid:1", b"sigmoid:1;", "objective binary has unknown or missing options"),
        (rb"sigmoid:1", b"sigmoid:0", "objective binary has unknown or missing options"),
        (rb" sigmoid:1", b"", "objective binary has unknown or missing options"),
        (rb"feature_infos=\S+", b"feature_infos=[1", "feature_infos has an unknown entry"),
        (rb"Column_1 ", b"Column_0 ", "empty or repeated name"),
        (rb"label_index=0\n", b"", "header has no label_index"),
        (rb"end of parameters", b"end of\0parameters", "control characters"),
        (rb"\[num_leaves: 15\]", b"num_leaves", "what follows the trees"),
    ],
)
def test_each_damage_is_named(lightgbm_models: dict[str, Any], pattern: bytes, replacement: bytes, told: str) -> None:
    with pytest.raises(ArtifactRejectedError, match=told):
        check_lightgbm_text(edit(lightgbm_models["binary"].artifact, pattern, replacement))


@pytest.mark.parametrize(
    ("pattern", "replacement", "told"),
    [
        (rb"cat_boundaries=0 \d+", b"cat_boundaries=0 9", "cat_threshold has|cat_boundaries don't rise"),
        (rb"cat_boundaries=0", b"cat_boundaries=1", "cat_boundaries don't rise from 0"),
        (rb"cat_threshold=\d+", b"cat_threshold=4294967296", "cat_threshold is outside 32 bits"),
        (rb"num_cat=[1-9]\d*", b"num_cat=0", "categorical splits, but num_cat is 0"),
    ],
)
def test_damaged_categories_are_named(
    lightgbm_models: dict[str, Any], pattern: bytes, replacement: bytes, told: str
) -> None:
    with pytest.raises(ArtifactRejectedError, match=told):
        check_lightgbm_text(edit(lightgbm_models["categorical"].artifact, pattern, replacement))


def test_wrong_tree_sizes_are_refused(lightgbm_models: dict[str, Any]) -> None:
    artifact = lightgbm_models["binary"].artifact
    first, second = (int(size) for size in re.findall(rb"tree_sizes=(\d+) (\d+)", artifact)[0])
    for sizes in (f"{first + 1} {second}", f"{first + 1} {second - 1}", f"{-first} {second}", f"{first}"):
        changed = re.sub(rb"tree_sizes=\d+ \d+", f"tree_sizes={sizes}".encode(), artifact)
        with pytest.raises(ArtifactRejectedError, match=r"tree_sizes"):
            check_lightgbm_text(changed)


def test_a_model_of_whole_iterations_only(lightgbm_models: dict[str, Any]) -> None:
    artifact = lightgbm_models["multiclass"].artifact
    end = artifact.index(b"\nend of trees")
    shorter = artifact[: artifact.rindex(b"Tree=", 0, end)] + artifact[end:]
    with pytest.raises(ArtifactRejectedError, match="whole iterations"):
        check_lightgbm_text(refit_tree_sizes(shorter))


@pytest.mark.parametrize("kept", [0, 4, 5, 100, 1000, 5000])
def test_a_cut_off_file_is_refused(lightgbm_models: dict[str, Any], kept: int) -> None:
    for check in (check_lightgbm_text, describe_lightgbm_text):
        with pytest.raises(ArtifactRejectedError):
            check(lightgbm_models["binary"].artifact[:kept])


def test_a_model_without_objective_gives_its_raw_score(lightgbm_models: dict[str, Any]) -> None:
    trained = lightgbm_models["regression"]
    own = edit(trained.artifact, rb"objective=regression\n", b"")
    check_lightgbm_text(own)
    assert ENGINE.describe(own) == ENGINE.describe(trained.artifact)


# Loads and predicts each file; a name without "ok" behind it is where the process ended.
LOAD_ALL = """
import sys
from pathlib import Path
import numpy as np
from registry.errors import ModelUnusableError
from scorer.engine import Rows
from scorer.engines.lightgbm import ENGINE
for path in sys.argv[1:]:
    print(Path(path).name, flush=True)
    data = Path(path).read_bytes()
    schema = ENGINE.describe(data)
    model = ENGINE.load(data, schema)
    rows = np.random.default_rng(0).standard_cauchy((64, len(schema.features))) * 20
    model.predict(Rows(rows, {}))
    model.predict(Rows(rows[:1], {}))
    model.close()
    print("ok", flush=True)
"""

HOSTILE_NUMBERS = [
    b"-1",
    b"0",
    b"1",
    b"2147483647",
    b"-2147483648",
    b"4294967296",
    b"1e308",
    b"nan",
    b"inf",
    b"",
    b"-7",
]
LINES = [
    *(b"left_child", b"right_child", b"split_feature", b"leaf_value", b"num_leaves", b"num_cat", b"decision_type"),
    *(b"threshold", b"max_feature_idx", b"num_class", b"num_tree_per_iteration", b"tree_sizes", b"cat_boundaries"),
    *(b"cat_threshold", b"feature_infos", b"objective", b"is_linear", b"shrinkage", b"version", b"Tree"),
    *(b"internal_value", b"leaf_count", b"leaf_weight", b"feature_names", b"label_index"),
]


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 10, 100])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def move_bytes(data: bytes, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(data)), chance.randrange(1, 2000)
    piece = data[start : start + length]
    middle = chance.choice([b"", piece + piece, b"\0" * len(piece), data[length : 2 * length]])
    return data[:start] + middle + data[start + length :]


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def change_line(data: bytes, chance: random.Random) -> bytes:
    """Change the numbers of one line, with tree lengths that fit, so that the damage reaches the inner checks."""
    lines = data.split(b"\n")
    key = chance.choice(LINES)
    number = chance.choice([i for i, line in enumerate(lines) if line.startswith(key + b"=")] or [1])
    name, _, value = lines[number].partition(b"=")
    values = value.split(b" ")
    place, hostile = chance.randrange(len(values)), chance.choice(HOSTILE_NUMBERS)
    one = [*values[:place], hostile, *values[place + 1 :]]
    swapped = [*values[:place], chance.choice(values), *values[place + 1 :]]
    changed = chance.choice([one, one, swapped, [hostile] * len(values), values[: len(values) // 2], values * 2])
    lines[number] = name + b"=" + b" ".join(changed)
    text = b"\n".join(lines)
    return text if key in {b"tree_sizes", b"Tree"} else refit_tree_sizes(text)


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [flip_bits, move_bytes, cut_off, change_line, change_line]


def accepted(data: bytes) -> bool:
    try:
        check_lightgbm_text(data)
    except ArtifactRejectedError:
        return False
    return True


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_passes_loads_and_predicts(lightgbm_models: dict[str, Any], tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    originals = [lightgbm_models[key].artifact for key in ("binary", "categorical", "multiclass", "random_forest")]
    paths = []
    for number in range(100):
        damage = chance.choice(DAMAGES)
        data = damage(chance.choice(originals), chance)
        if accepted(data):
            paths.append(tmp_path / f"{number}-{damage.__name__}.txt")
            paths[-1].write_bytes(data)
    assert 5 < len(paths) < 60
    script = [sys.executable, "-c", LOAD_ALL, *map(str, paths)]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, f"{ended.stdout.splitlines()[-1:]}: {ended.returncode} {ended.stderr[-500:]}"
    assert ended.stdout.count("ok\n") == len(paths)
