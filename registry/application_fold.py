"""Which shared model answers for a tenant that has no model of an application's name. Pure.

Applications are few: all that etcd names are held, as its watch tells them. What etcd doesn't name (it lost its data,
or the watch hasn't told it yet) is read from object storage by the owner and remembered here, also that there is
none, for at most `CAPACITY` names: callers may ask for any number of names that don't exist.

Invariant: what the watch told of a name counts before what was read for it, unless it is an older revision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from registry.model import ApplicationRecord, ModelRef

CAPACITY = 10_000


class Applications:
    """See the module."""

    def __init__(self) -> None:
        self._watched: dict[str, ApplicationRecord] = {}
        self._found: OrderedDict[str, ApplicationRecord | None] = OrderedDict()

    def knows(self, name: str) -> bool:
        """Whether `shared` has the answer, be it that there is none."""
        return name in self._watched or name in self._found

    def shared(self, name: str) -> ModelRef | None:
        """The model that stands in for those that are missing under this name."""
        record = self._watched.get(name) or self._found.get(name)
        return record.shared if record is not None and not record.deleted else None

    def remember(self, name: str, record: ApplicationRecord | None) -> None:
        """Hold what object storage has under a name."""
        self._found[name] = record
        self._found.move_to_end(name)
        if len(self._found) > CAPACITY:
            self._found.popitem(last=False)

    def replace(self, records: Iterable[ApplicationRecord]) -> None:
        """Fold the whole state of etcd. All else is forgotten, and read again when it is asked for."""
        self._watched = {record.application: record for record in records}
        self._found.clear()

    def put(self, record: ApplicationRecord) -> None:
        """Fold one write."""
        found = self._found.get(record.application)
        if found is None or found.revision <= record.revision:
            self._watched[record.application] = record
            self._found.pop(record.application, None)

    def forget(self, name: str) -> None:
        """Fold one deletion."""
        self._watched.pop(name, None)
        self._found.pop(name, None)
