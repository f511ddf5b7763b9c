"""What a scorer holds of the catalog, folded from reads and watch events. Pure.

Two streams tell about a model: reads on demand, which answer at some revision of etcd, and the watch, which lags
behind. They race, so every entry carries the revision that its value is known to be true at, and three rules keep the
newest:

1. An event no newer than the entry's revision is old news and changes nothing.
2. While a read is under way its model is listened to; when the answer is older than an event that passed meanwhile,
   the event's value wins. Reads are linearizable, so what happened before the read began can't be missing in it.
3. A gap (the watch lost its place, or etcd was restored and counts from a lower revision) makes nothing of what is held
   certain beyond the revision that the watch goes on from: it is kept and answers, but any read or event replaces it;
   the owner reads it all again. Reads under way across the gap are void.

Where a tenant has no model of a name, the shared model of the application of that name answers in its place, by its own
entry: so its moves hold at once for all who fall back to it, and a model of the tenant's own counts as soon as an event
tells of it. A shared model that is missing has no other behind it.

Invariants: at most `capacity` entries, and events never add one; between two gaps the value held for a model is never
older than the newest event seen for it, nor than the newest finished read of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from registry.model import LIVE, ModelRecord, ModelRef, ModelVersion

VERSIONS_PER_MODEL = 64


class Entry:
    """One model. `record` is None where there is no such model. `versions` has the versions that may be asked for by
    number: those of the aliases and rollouts, and others read from object storage, None for one that may not be scored.
    Of those `retired` are there. An event makes a new entry, which knows nothing of versions that no alias means: one
    that was missing may have been published, and one that was there may have been retired or deleted.
    """

    __slots__ = ("record", "retired", "revision", "versions")

    def __init__(self, revision: int, record: ModelRecord | None) -> None:
        self.revision = revision
        self.record = record
        self.versions: dict[str, ModelVersion | None] = _named_versions(record)
        self.retired: frozenset[str] = frozenset()

    def remember(self, name: str, version: ModelVersion | None, *, retired: bool = False) -> None:
        """Hold what a version is. When there are too many, all but those of the aliases are forgotten first."""
        if len(self.versions) >= VERSIONS_PER_MODEL:
            self.versions, self.retired = _named_versions(self.record), frozenset()
        self.versions.setdefault(name, version)
        if retired:
            self.retired |= {name}

    def choose(self, version: str, alias: str) -> ModelVersion | None:
        """The version asked for by number, else by alias (default "live"); None when it isn't held or doesn't exist."""
        if version:
            return self.versions.get(version)
        return self.record.aliases.get(alias or LIVE) if self.record is not None else None


class Read:
    """A read under way. `revision` and `record`: the newest event that passed meanwhile, 0 when none did."""

    __slots__ = ("record", "ref", "revision", "void")

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self.revision = 0
        self.record: ModelRecord | None = None
        self.void = False


class CatalogFold:
    """The held entries, least recently used first to leave. `shared`: the model that answers where a tenant has none of
    that name. Not safe for several threads.
    """

    def __init__(self, capacity: int, shared: Callable[[str], ModelRef | None] = lambda _name: None) -> None:
        self._capacity = capacity
        self._shared = shared
        self._held: OrderedDict[ModelRef, Entry] = OrderedDict()
        self._reads: dict[ModelRef, Read] = {}

    def __len__(self) -> int:
        return len(self._held)

    def find(self, ref: ModelRef) -> Entry | None:
        """The entry of a model, which becomes the most recently used one; None when it isn't held."""
        entry = self._held.get(ref)
        if entry is not None:
            self._held.move_to_end(ref)
        return entry

    def lookup(self, ref: ModelRef, version: str, alias: str) -> ModelVersion | None:
        """The version asked for by number, else by alias (default "live"); None when it isn't held or doesn't exist."""
        entry = self._held.get(ref)
        if entry is None:
            return None
        self._held.move_to_end(ref)
        if entry.record is None:
            return self._lookup_shared(ref.model, version, alias)
        if version:
            return entry.versions.get(version)
        return entry.record.aliases.get(alias or LIVE)

    def _lookup_shared(self, name: str, version: str, alias: str) -> ModelVersion | None:
        shared = self._shared(name)
        entry = self.find(shared) if shared is not None else None
        return entry.choose(version, alias) if entry is not None and entry.record is not None else None

    def wants(self, ref: ModelRef) -> bool:
        """Whether an event of this model can change anything; others need not even be decoded."""
        return ref in self._held or ref in self._reads

    def refs(self) -> list[ModelRef]:
        """The held models, most recently used first."""
        return list(reversed(self._held))

    def begin(self, ref: ModelRef) -> Read:
        """Start to listen for a model, before its read is sent. At most one read of a model at a time."""
        if ref in self._reads:
            raise ValueError(f"a read of {ref} is under way")
        read = self._reads[ref] = Read(ref)
        return read

    def abandon(self, read: Read) -> None:
        """Stop to listen: the read failed."""
        if self._reads.get(read.ref) is read:
            del self._reads[read.ref]

    def finish(self, read: Read, revision: int, record: ModelRecord | None) -> Entry | None:
        """Hold the answer of a read made at `revision`, or the newer event; None when the read must be made again."""
        self.abandon(read)
        if read.void:
            return None
        if read.revision > revision:
            revision, record = read.revision, read.record
        held = self._held.get(read.ref)
        if held is None:
            return self._add(read.ref, Entry(revision, record))
        return held if held.revision > revision else self._replace(read.ref, revision, record)

    def apply(self, ref: ModelRef, revision: int, record: ModelRecord) -> None:
        """Fold one write that the watch told of."""
        read = self._reads.get(ref)
        if read is not None:
            read.revision, read.record = revision, record
        entry = self._held.get(ref)
        if entry is not None and revision > entry.revision:
            self._replace(ref, revision, record)

    def forget(self, ref: ModelRef, revision: int) -> None:
        """Fold one deletion that the watch told of: the model is read anew when it is asked for."""
        read = self._reads.get(ref)
        if read is not None:
            read.void = True
        entry = self._held.get(ref)
        if entry is not None and revision > entry.revision:
            del self._held[ref]

    def drop(self, ref: ModelRef) -> None:
        """Stop to hold a model."""
        self._held.pop(ref, None)

    def drop_tenant(self, tenant: str) -> None:
        """Stop to hold all models of a tenant; what is being read of them is read again."""
        for ref in [ref for ref in self._held if ref.tenant == tenant]:
            del self._held[ref]
        for ref, read in self._reads.items():
            read.void = read.void or ref.tenant == tenant

    def gap(self, revision: int) -> None:
        """Fold a gap: events up to `revision` may have been missed."""
        for read in self._reads.values():
            read.void = True
        for entry in self._held.values():
            entry.revision = min(entry.revision, revision)

    def _add(self, ref: ModelRef, entry: Entry) -> Entry:
        self._held[ref] = entry
        if len(self._held) > self._capacity:
            self._held.popitem(last=False)
        return entry

    def _replace(self, ref: ModelRef, revision: int, record: ModelRecord | None) -> Entry:
        entry = self._held[ref] = Entry(revision, record)
        return entry


def _named_versions(record: ModelRecord | None) -> dict[str, ModelVersion | None]:
    """The versions that a record has, by number. Who asks by number takes no part in a rollout."""
    named: dict[str, ModelVersion | None] = {}
    for version in record.aliases.values() if record is not None else ():
        if version.rollout is None:
            named[version.version] = version
            continue
        plain = msgspec.structs.replace(version, rollout=None)
        for each in (plain, version.rollout.canary, version.rollout.shadow):
            if each is not None:
                named[each.version] = each
    return named
