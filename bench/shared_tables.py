"""What models save that share a vocabulary: python -m bench.shared_tables

200 models of one application, each with a scale of its own and the same 5,000 words (of Python's own help and NumPy's
documentation): the bytes that their transforms take in object storage and in a scorer's memory, alone and shared, with
the same weights of the words for all and with weights of their own. Each way is measured in a process of its own,
which decodes and compiles all of them as a scorer does at a load.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from bench.registry_common import MIB, machine
from registry.process import end_with
from registry.transform_tables import decode_table, join_tables, split_tables
from registry.transforms import Column, Scale, Tokens, TransformSpec, decode_spec, encode_spec
from scorer.memory import release_free_memory, resident_set_bytes
from scorer.transforms import SharedTables, compile_transform


def vocabulary(size: int) -> Tokens:
    """The most frequent words of Python's help and NumPy's documentation, with their weights."""
    from pydoc_data.topics import topics

    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    documents = [*topics.values(), *(str(getattr(np, name).__doc__) for name in sorted(vars(np)))]
    texts = [part for text in documents for part in text.split("\n\n")]
    found = TfidfVectorizer(max_features=size).fit(texts)
    words = sorted(found.vocabulary_, key=found.vocabulary_.__getitem__)
    return Tokens(tuple(words), idf=tuple(found.idf_.tolist()), norm="l2")


def specs(words: Tokens, models: int, own_weights: bool) -> Iterator[TransformSpec]:
    """One spec a model."""
    for number in range(models):
        idf = tuple(float(each) + number / 1e6 for each in words.idf) if own_weights else words.idf  # type: ignore[union-attr]
        columns = (
            Column("age", (Scale(subtract=float(number)),)),
            Column("text", (msgspec.structs.replace(words, idf=idf),)),
        )
        yield TransformSpec(("age",), columns, ("text",))


def stored(words: Tokens, models: int, own_weights: bool, shared: bool) -> tuple[list[bytes], dict[str, bytes]]:
    """The objects of all specs: JSON of each, and tables by digest."""
    made: list[bytes] = []
    tables: dict[str, bytes] = {}
    for spec in specs(words, models, own_weights):
        split, found = split_tables(spec) if shared else (spec, {})
        made.append(encode_spec(split))
        tables |= found
    return made, tables


def load_all(pipe: Connection, data: list[bytes], tables: dict[str, bytes], shared: bool) -> None:
    """In a process of its own: (bytes of memory, CPU microseconds a load, bytes that the transforms say)."""
    everyone = SharedTables()
    gc.collect()
    release_free_memory()
    before, began = resident_set_bytes(), time.process_time()
    held = []
    for each in data:
        spec = decode_spec(each)
        spec = join_tables(
            spec, {digest: decode_table(table) for digest, table in tables.items() if digest.encode() in each}
        )
        held.append(compile_transform(spec, everyone if shared else SharedTables()))
        del spec
    took_us = (time.process_time() - began) / len(data) * 1e6
    gc.collect()
    release_free_memory()
    pipe.send((resident_set_bytes() - before, took_us, sum(each.resident_bytes for each in held)))


def measure(words: Tokens, models: int, own_weights: bool, shared: bool) -> list[Any]:
    """One line of the table."""
    data, tables = stored(words, models, own_weights, shared)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=load_all, args=(theirs, data, tables, shared))
    process.start()
    resident, took_us, said = ours.recv()
    process.join()
    store = sum(map(len, data)) + sum(map(len, tables.values()))
    return [store / MIB, len(data) + len(tables), resident / MIB, said / MIB, took_us]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--words", type=int, default=5000)
    options = parser.parse_args()
    words = vocabulary(options.words)
    print(machine())
    print(f"{options.models} models, {len(words.vocabulary)} words")  # type: ignore[arg-type]
    print("| weights | tables | store MiB | objects | resident MiB | said MiB | CPU us a load |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for own_weights in (False, True):
        for shared in (False, True):
            line = measure(words, options.models, own_weights, shared)
            name = "own" if own_weights else "the same"
            print(
                f"| {name} | {'shared' if shared else 'each its own'} | {line[0]:.2f} | {line[1]} | {line[2]:.1f} "
                f"| {line[3]:.1f} | {line[4]:,.0f} |"
            )


if __name__ == "__main__":
    end_with(main)
