"""LightGBM texts that crash or hang the library, published past the sandbox, which would let none of them pass."""

from __future__ import annotations

import re
from pathlib import Path

import lightgbm
import numpy as np

from registry.etcd import Etcd
from registry.keys import Keys
from registry.model import ModelRef
from registry.offer import Admitted, Offer
from registry.store_urls import open_store
from scorer.engine import engine_for
from tests.integration.publishing import publisher

ROWS = np.random.default_rng(1).normal(size=(200, 4))
GOOD = ModelRef("acme", "good")


def _constant(text: bytes, name: bytes, value: bytes) -> bytes:
    """Every entry of a tree's array is this value."""
    return re.sub(
        rb"^(%s=)(.*)$" % name,
        lambda line: line[1] + b" ".join([value] * len(line[2].split())),
        text,
        flags=re.MULTILINE,
    )


def _unsized(text: bytes) -> bytes:
    """Without the lengths of the trees the library takes what it reads; with them it looks."""
    return re.sub(rb"^tree_sizes=.*\n", b"", text, flags=re.MULTILINE)


def _crashes(text: bytes) -> bytes:
    """A prediction reads far behind the row."""
    return _unsized(_constant(text, b"split_feature", b"900000000"))


def _hangs(text: bytes) -> bytes:
    """A prediction walks in circles."""
    return _unsized(_constant(_constant(text, b"left_child", b"0"), b"right_child", b"0"))


def _aborts(text: bytes) -> bytes:
    """Loading ends in std::terminate."""
    return _constant(text, b"num_leaves", b"-5")


POISONS = {
    "crashes": (_crashes, "crashed with SIGSEGV"),
    "hangs": (_hangs, "hung in the event loop"),
    "aborts": (_aborts, "crashed with SIGABRT"),
}


async def _admit(offer: Offer) -> Admitted:
    """No sandbox would let these pass, so they come past it."""
    poison = POISONS.get(offer.data.rpartition(b"poison=")[2].decode(errors="replace"))
    text = offer.data.rpartition(b"\npoison=")[0] if poison else offer.data
    schema = engine_for(offer.runtime).describe(text)
    return Admitted(poison[0](text) if poison else text, schema, 1 << 20, {"1": 2.0, "64": 20.0})


def _text() -> bytes:
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "seed": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(ROWS, ROWS[:, 0]), 3)
    return str(booster.model_to_string()).encode()


async def publish_poisons(store_url: str, etcd: Etcd, keys: Keys, directory: Path) -> dict[ModelRef, str]:
    """Publish a good model, and one for each poison; returns their packages. `directory`: for the files."""
    opened = publisher(open_store(store_url), etcd, keys, _admit)
    text = _text()
    texts = {GOOD: text} | {ModelRef("acme", name): text + b"\npoison=" + name.encode() for name in POISONS}
    packages = {}
    for ref, content in texts.items():
        path = directory / f"{ref.model}.txt"
        path.write_bytes(content)
        packages[ref] = (await opened.publish(path, ref)).to_version().package
    return packages
