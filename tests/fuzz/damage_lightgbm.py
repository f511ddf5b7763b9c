"""Damage that keeps a LightGBM text well formed, so that it reaches the inner checks, or what lies behind them."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

_HOSTILE = (
    *(b"-1", b"0", b"1", b"2", b"-2", b"7", b"-7", b"65536", b"999999", b"2147483647", b"-2147483648", b"4294967295"),
    *(b"4294967296", b"9223372036854775808", b"1e308", b"1e-320", b"-0", b"nan", b"-nan", b"inf", b"-inf", b"1e999"),
    *(b"", b"0x10", b"1_0", b"1.5", b"+1", b"00", b"1e5"),
)
_ARRAYS = (
    *(b"left_child", b"right_child", b"split_feature", b"threshold", b"decision_type", b"leaf_value"),
    *(b"cat_boundaries", b"cat_threshold", b"split_gain", b"internal_value", b"leaf_count", b"tree_sizes"),
)
_SINGLES = (
    *(b"num_leaves", b"num_cat", b"shrinkage", b"is_linear", b"Tree", b"version", b"num_class"),
    *(b"num_tree_per_iteration", b"label_index", b"max_feature_idx", b"objective", b"feature_names", b"feature_infos"),
)


def refit_tree_sizes(data: bytes) -> bytes:
    """Write the lengths of the trees anew, where there still are trees."""
    start, end = data.find(b"\nTree=0\n") + 1, data.find(b"\nend of trees")
    if not 0 < start < end:
        return data
    blocks = re.split(rb"(?<=\n)(?=Tree=\d+\n)", data[start : end + 1])
    sizes = b" ".join(str(len(block)).encode() for block in blocks)
    return re.sub(rb"tree_sizes=[^\n]*", b"tree_sizes=" + sizes, data, count=1)


_Edit = Callable[[list[bytes]], list[bytes]]


def _edit_line(data: bytes, keys: tuple[bytes, ...], chance: Random, edit: _Edit) -> bytes:
    """Change the values of one line of those keys, with tree lengths that fit (but where they are the damage)."""
    lines = data.split(b"\n")
    key = chance.choice(keys)
    places = [number for number, line in enumerate(lines) if line.startswith(key + b"=")]
    if not places:
        return _edit_line(data, keys, chance, edit)
    number = chance.choice(places)
    name, _, value = lines[number].partition(b"=")
    lines[number] = name + b"=" + b" ".join(edit(value.split(b" ")))
    changed = b"\n".join(lines)
    return changed if key == b"tree_sizes" else refit_tree_sizes(changed)


def hostile_entry(data: bytes, chance: Random) -> bytes:
    def edit(values: list[bytes]) -> list[bytes]:
        values[chance.randrange(len(values))] = chance.choice(_HOSTILE)
        return values

    return _edit_line(data, _ARRAYS, chance, edit)


def hostile_field(data: bytes, chance: Random) -> bytes:
    return _edit_line(data, _SINGLES, chance, lambda _: [chance.choice(_HOSTILE)])


def hostile_everywhere(data: bytes, chance: Random) -> bytes:
    hostile = chance.choice(_HOSTILE)
    return _edit_line(data, _ARRAYS, chance, lambda values: [hostile] * len(values))


def other_length(data: bytes, chance: Random) -> bytes:
    return _edit_line(
        data, _ARRAYS, chance, lambda values: chance.choice([values[:-1], values[: len(values) // 2], values * 2, []])
    )


def shuffled(data: bytes, chance: Random) -> bytes:
    """The right numbers at wrong places: children that make cycles, bounds that fall."""
    return _edit_line(data, _ARRAYS, chance, lambda values: chance.sample(values, len(values)))


def neighbour(data: bytes, chance: Random) -> bytes:
    """One number a little off: the next node, the next feature, one more leaf."""

    def edit(values: list[bytes]) -> list[bytes]:
        place = chance.randrange(len(values))
        if re.fullmatch(rb"-?\d+", values[place]):
            values[place] = str(int(values[place]) + chance.choice([-1, 1])).encode()
        return values

    return _edit_line(data, _ARRAYS + _SINGLES, chance, edit)


def change_lines(data: bytes, chance: Random) -> bytes:
    """A line is gone, there twice, or at another place."""
    lines = data.split(b"\n")
    number = chance.randrange(len(lines))
    line = lines.pop(number)
    again = chance.choice([[], [line, line], [line + b"=1"], [b"surprise=1", line]])
    place = chance.choice([number, chance.randrange(len(lines))])
    return refit_tree_sizes(b"\n".join(lines[:place] + again + lines[place:]))


def many_leaves(data: bytes, chance: Random) -> bytes:
    """A tree that is a chain, thousands of nodes deep; well formed, so it may be admitted."""
    leaves = chance.choice([2, 1000, 20_000])
    splits = leaves - 1
    rows = {
        "split_feature": ["0"] * splits,
        "threshold": [str(number) for number in range(splits)],
        "decision_type": [str(chance.choice([2, 8, 10]))] * splits,
        "left_child": [str(-1 - number) for number in range(splits)],
        "right_child": [*(str(number + 1) for number in range(splits - 1)), str(-leaves)],
        "leaf_value": ["0.5"] * leaves,
    }
    text = "".join(f"{key}={' '.join(values)}\n" for key, values in rows.items())
    tree = f"Tree=0\nnum_leaves={leaves}\nnum_cat=0\n{text}is_linear=0\nshrinkage=1\n\n\n"
    start = data.find(b"\nTree=0\n") + 1
    end = data.find(b"Tree=1\n")
    return refit_tree_sizes(data[:start] + tree.encode() + data[end:]) if end > start else data[:start]


def change_tail(data: bytes, chance: Random) -> bytes:
    tail = chance.choice([
        b"parameters:\n[a: " + b"9" * chance.choice([10, 100_000]) + b"]\nend of parameters\n",
        b"pandas_categorical:" + b"[" * chance.choice([3, 5000]) + b"]" * 3 + b"\n",
        b'pandas_categorical:[["a","b"],[1,2.5,true]]\n',
        b'pandas_categorical:[["\\ud800"]]\n',
        b"feature_importances:\nx=\xc3\xa9\n",
        b"end of trees\n",
        b"",
    ])  # fmt: skip
    return data[: data.find(b"end of trees\n") + 13] + b"\n" + tail


LIGHTGBM = [
    *(hostile_entry, hostile_entry, hostile_field, hostile_everywhere, other_length, shuffled, neighbour, neighbour),
    *(change_lines, many_leaves, change_tail),
]
