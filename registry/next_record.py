"""The step from a model's record to the next one: what must hold for it, and how a repeated request is known. Pure.

Contract: a `Change` takes an AliasRecord and returns it altered, or the very same object where there is nothing left to
do (so that a repeated request makes no new record). It knows nothing of revisions, nonces and times: `next_record` adds
them, and takes out what nothing points at any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from registry.errors import ConflictError, InvalidRequestError, ScoreMeshError
from registry.manifest import AliasRecord

Change = Callable[[AliasRecord], AliasRecord]
REQUESTS_KEPT = 32
MOST_ALIASES = 64  # A model's record must fit into an entry of etcd.
EMPTY = AliasRecord(revision=0, aliases={}, created_at="", nonce="")
_LONGEST = 300


class Condition(NamedTuple):
    """When a change may be made. `request_id`: one that was made under it already is not made twice; `what`: what the
    request comes to, in words, by which an id that was used for something else is refused. `revision`: only if the
    record that holds is this one, or has it already; 0 for any.
    """

    request_id: str = ""
    revision: int = 0
    what: str = ""


ANY = Condition()


def next_record(current: AliasRecord, change: Change, condition: Condition, *, now: str, nonce: str) -> AliasRecord:
    """The record after `change`, or `current` itself where nothing is to be done.

    Raises:
        ConflictError: the record that holds isn't the one of the condition, or the request id was used for something
            else.
        InvalidRequestError: the model would have too many aliases.
        ScoreMeshError: what the change itself refuses.
    """
    if is_made(current, condition):
        return current
    try:
        changed = change(current)
    except ScoreMeshError:
        _check_revision(current, condition)  # Who decided by another record shall look at this one first.
        raise
    if changed is current:
        return current
    _check_revision(current, condition)
    if len(changed.aliases) > max(MOST_ALIASES, len(current.aliases)):
        raise InvalidRequestError(f"a model can't have more than {MOST_ALIASES} aliases")
    used = {*changed.aliases.values()}
    for spec in changed.rollouts.values():
        used |= {spec.canary, spec.shadow}
    done = ((condition.request_id, condition.what),) if condition.request_id else ()
    return msgspec.structs.replace(
        changed,
        versions={name: version for name, version in changed.versions.items() if name in used},
        revision=current.revision + 1,
        previous=current.revision,
        created_at=now,
        nonce=nonce,
        requests=(*changed.requests, *done)[-REQUESTS_KEPT:],
    )


def is_made(record: AliasRecord, condition: Condition) -> bool:
    """Whether the condition's request was carried out already. Raises ConflictError where its id was used for something
    else.
    """
    what = dict(record.requests).get(condition.request_id) if condition.request_id else None
    if what is not None and what != condition.what:
        raise ConflictError(f"request id {condition.request_id} was used already: {what or 'for another change'}")
    return what is not None


def publication(version: str, aliases: Iterable[str]) -> str:
    """What a request came to that published a version."""
    return f"version {version} as {', '.join(sorted({*aliases})) or 'no alias'}"[:_LONGEST]


def published_version(record: AliasRecord, request_id: str) -> str:
    """The version that a request published, "" for one that isn't known. Raises ConflictError where it was something
    else than a publication.
    """
    what = dict(record.requests).get(request_id, "") if request_id else ""
    kind, _, rest = what.partition(" ")
    if what and kind != "version":
        raise ConflictError(f"request id {request_id} was used already: {what}")
    return rest.partition(" ")[0]


def _check_revision(record: AliasRecord, condition: Condition) -> None:
    if condition.revision not in (0, record.revision):
        raise ConflictError(f"the model changed: its revision is {record.revision}, not {condition.revision}")
