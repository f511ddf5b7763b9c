"""Publishes many model files in one go.

Contract: items are taken one after the other when there is room, so that memory doesn't grow with their number; one
that fails is reported and the others go on, but when one after the other finds store or etcd gone, the whole ends.
Running it again after it was killed finishes it: a file whose content is live already is left alone, a version that was
begun for the same content is finished, and the rest is published. Two items of one model in one run come in no order.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from registry.bounded import for_each
from registry.errors import InvalidRequestError, ScoreMeshError, UnavailableError
from registry.library import Library
from registry.model import LIVE, ModelRef
from registry.next_record import EMPTY
from registry.offer import NO_FACTS, Facts, read_offer, split_digest
from registry.publish import SIZE_LIMIT_BYTES, Publisher

_SUFFIXES = frozenset({".txt", ".onnx", ".ubj", ".json"})
_GIVE_UP_AFTER = 20
_FAILURES_KEPT = 1000


class Item(NamedTuple):
    """One file to publish; `version` and `request_id` as for `Publisher.publish`."""

    path: Path
    ref: ModelRef
    facts: Facts = NO_FACTS
    version: str | None = None
    request_id: str = ""


class Outcome(StrEnum):
    """What came of an item. `unchanged`: it was live already."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class Done(NamedTuple):
    """An item and what came of it: the version that is live, or why it failed."""

    item: Item
    outcome: Outcome
    version: str = ""
    why: str = ""


class Summary(NamedTuple):
    """How many, and the first thousand failures."""

    published: int
    unchanged: int
    failed: int
    failures: tuple[Done, ...]
    elapsed_s: float


PublishItem = Callable[[Item], Awaitable[Done]]


async def publish_many(
    publish: PublishItem,
    items: Iterable[Item],
    concurrency: int = 8,
    on_done: Callable[[Done], None] = lambda _: None,
) -> Summary:
    """Publish all items, `concurrency` at a time; `on_done` is told of each. `publish` does one: `publish_item`, or
    through a running registry.

    Raises:
        StoreUnavailableError, EtcdUnavailableError: twenty items in a row found it gone; run it again.
        InvalidRequestError: by `items`, or fewer than one at a time.
    """
    if concurrency < 1:
        raise InvalidRequestError(f"{concurrency} models at a time can't be published")
    run = _Run(publish, on_done)
    began_s = time.monotonic()
    await for_each(items, run.do, concurrency)
    count = run.count
    return Summary(
        count[Outcome.PUBLISHED],
        count[Outcome.UNCHANGED],
        count[Outcome.FAILED],
        tuple(run.failures),
        time.monotonic() - began_s,
    )


def read_items(path: Path) -> Iterator[Item]:
    """The items of a directory with a folder for each tenant and in it <model>.txt, .onnx, .ubj and .json files, or of
    a JSON Lines file: an object a line, with `path` (from the file's own folder), `tenant`, `model`, and as far as
    wanted `version`, `request_id` and the fields of `registry.offer.Facts`. Nothing is given before every line was
    checked.

    Raises:
        InvalidRequestError: there is no such file or directory, it has no item, or a line is none; the text says which.
    """
    return _tree_items(path) if path.is_dir() else _listed_items(path)


class _Run:
    def __init__(self, publish: PublishItem, on_done: Callable[[Done], None]) -> None:
        self._publish = publish
        self._on_done = on_done
        self._gone_in_a_row = 0
        self.count = dict.fromkeys(Outcome, 0)
        self.failures: list[Done] = []

    async def do(self, item: Item) -> None:
        try:
            done = await self._publish(item)
            self._gone_in_a_row = 0
        except ScoreMeshError as error:
            self._gone_in_a_row = self._gone_in_a_row + 1 if isinstance(error, UnavailableError) else 0
            if self._gone_in_a_row >= _GIVE_UP_AFTER:
                raise
            done = Done(item, Outcome.FAILED, why=error.message)
        self.count[done.outcome] += 1
        if done.outcome is Outcome.FAILED and len(self.failures) < _FAILURES_KEPT:
            self.failures.append(done)
        self._on_done(done)


async def publish_item(publisher: Publisher, item: Item) -> Done:
    """Publish one item as "live". Raises what `Publisher.publish` raises."""
    version = item.version
    if not item.request_id and version is None:
        live, begun = await _before(publisher, item)
        if live:
            return Done(item, Outcome.UNCHANGED, live)
        version = begun or None
    manifest = await publisher.publish(
        item.path, item.ref, version=version, facts=item.facts, request_id=item.request_id
    )
    return Done(item, Outcome.PUBLISHED, manifest.version)


async def _before(publisher: Publisher, item: Item) -> tuple[str, str]:
    """The version that is live with this content, and one with this content that was begun and came to nothing."""
    library = publisher.library
    record = await library.newest_aliases(item.ref) or EMPTY
    registered = await library.list_registered(item.ref)
    live = record.aliases.get(LIVE, "")
    if not live and not registered:
        return "", ""
    offer = await read_offer(item.path, None, SIZE_LIMIT_BYTES, item.facts)
    source = offer.digest
    manifest = await library.find_manifest(item.ref, live) if live else None
    same = manifest is not None and (manifest.source, manifest.transforms_digest) == (source, split_digest(offer))
    if same and record.contract:  # Else its publisher hasn't finished.
        await publisher.ledger.tell(item.ref, record)  # Who published it may have died before that.
        return live, ""
    barred = {*record.retired, *record.deleted, *record.before.values()}
    last = registered[-1] if registered else ""
    return "", last if last not in barred and await _is_of(library, item.ref, last, source) else ""


async def _is_of(library: Library, ref: ModelRef, version: str, source: str) -> bool:
    found = await library.find_registration(ref, version) if version else None
    return found is not None and found.source == source


class _Line(Facts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    tenant: str
    model: str
    version: str | None = None
    request_id: str = ""


def _listed_items(path: Path) -> Iterator[Item]:
    count = sum(1 for _ in _lines(path))
    if not count:
        raise InvalidRequestError(f"{path} names no model")
    return _lines(path)


def _lines(path: Path) -> Iterator[Item]:
    decoder = msgspec.json.Decoder(_Line)
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield _item(path.parent, decoder, text, f"{path}, line {number}")
    except OSError as error:
        raise InvalidRequestError(f"can't read {path}: {error.strerror}") from error


def _item(folder: Path, decoder: msgspec.json.Decoder[_Line], text: bytes, where: str) -> Item:
    try:
        line = decoder.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"{where}: {error}") from error
    facts = Facts(**{name: getattr(line, name) for name in Facts.__struct_fields__})
    return Item(folder / line.path, ModelRef(line.tenant, line.model), facts, line.version, line.request_id)


def _tree_items(root: Path) -> Iterator[Item]:
    items = _tree(root)
    first = next(items, None)
    if first is None:
        raise InvalidRequestError(f"{root} has no <tenant>/<model>.txt, .onnx, .ubj or .json")
    return _chained(first, items)


def _chained(first: Item, others: Iterator[Item]) -> Iterator[Item]:
    yield first
    yield from others


def _tree(root: Path) -> Iterator[Item]:
    for folder in sorted(each for each in root.iterdir() if each.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix in _SUFFIXES:
                yield Item(path, ModelRef(folder.name, path.stem))
