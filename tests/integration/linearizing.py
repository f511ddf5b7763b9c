"""What calls on one model's aliases do one after another, and whether concurrent ones could have been made like that.

The check is the search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe
("Testing for linearizability", 2017): find an order of the calls in which each comes before all that began after its
end, and gives its answer. A call whose outcome is unknown may have happened at any time after its beginning, or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from registry.manifest import AliasRecord


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `act`: publish, point, roll_back, remove, retire or read. `outcome`: "done", or "conflict", "missing",
    "in use" for a refusal, or "unknown". `shown`: revision and aliases that a done call's answer told of. `began` and
    `ended` by a clock that all callers share; None while nobody knows the end.
    """

    act: str
    alias: str = ""
    version: str = ""
    expected: str | None = None
    outcome: str = "done"
    shown: tuple[int, dict[str, str]] | None = None
    began: int
    ended: int | None
    request_id: str = ""


class State(NamedTuple):
    """Where a model stands."""

    revision: int
    aliases: frozenset[tuple[str, str]] = frozenset()
    before: frozenset[tuple[str, str]] = frozenset()
    retired: frozenset[str] = frozenset()


def state_of(record: AliasRecord) -> State:
    """The state that a record tells."""
    return State(
        record.revision,
        frozenset(record.aliases.items()),
        frozenset(record.before.items()),
        frozenset(record.retired),
    )


def is_linearizable(calls: Sequence[Call], initial: State) -> bool:
    """See the module."""
    certain = sum(1 << place for place, call in enumerate(calls) if call.outcome != "unknown")
    seen: set[tuple[int, State]] = set()
    open_paths = [(0, initial)]
    while open_paths:
        done, state = open_paths.pop()
        if done & certain == certain:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        left = [place for place in range(len(calls)) if not done >> place & 1]
        ends = [end for place in left if certain >> place & 1 and (end := calls[place].ended) is not None]
        for place in left:
            if calls[place].began <= min(ends):
                open_paths += [(done | 1 << place, after) for after in _after(state, calls[place])]
    return False


def _after(state: State, call: Call) -> Iterator[State]:
    """The state after a call that has this outcome in this state; none where it can't have it."""
    aliases = dict(state.aliases)
    at = aliases.get(call.alias, "")
    if call.outcome not in ("done", "unknown"):
        if _may_refuse(state, call, at):
            yield state
        return
    after = _effect(state, call, at)
    if after is None or (call.outcome == "unknown" and after == state):
        return
    if call.shown is None or call.shown == (after.revision, dict(after.aliases)):
        yield after


def _effect(state: State, call: Call, at: str) -> State | None:
    """The state after a call that succeeds; None where it can't."""
    match call.act:
        case "read":
            return state
        case "remove":
            return _removed(state, call.alias) if at else state
        case "retire":
            return _retired(state, call.version)
        case "publish" if not call.alias:
            return state._replace(revision=state.revision + 1)
    to = dict(state.before).get(call.alias, "") if call.act == "roll_back" else call.version
    return _moved(state, call, at, to)


def _may_refuse(state: State, call: Call, at: str) -> bool:
    before = dict(state.before).get(call.alias)
    match call.act, call.outcome:
        case "point", "conflict":
            return at != call.version and call.expected not in (None, at)
        case "point", "in use":
            return at != call.version and call.version in state.retired
        case "roll_back", "conflict":
            return call.expected != at  # without one, somebody moved it meanwhile
        case "roll_back", "missing":
            return not at or before is None
        case "retire", "in use":
            return call.version in dict(state.aliases).values() and call.version not in state.retired
    return False


def _moved(state: State, call: Call, at: str, to: str) -> State | None:
    if at == to and call.act == "point":
        return state
    if not to or to in state.retired or call.expected not in (None, at):
        return None
    before = dict(state.before) | ({call.alias: at} if at not in ("", to) else {})
    aliases = dict(state.aliases) | {call.alias: to}
    return State(state.revision + 1, frozenset(aliases.items()), frozenset(before.items()), state.retired)


def _removed(state: State, alias: str) -> State:
    aliases = frozenset(pair for pair in state.aliases if pair[0] != alias)
    before = frozenset(pair for pair in state.before if pair[0] != alias)
    return State(state.revision + 1, aliases, before, state.retired)


def _retired(state: State, version: str) -> State | None:
    if version in state.retired:
        return state
    if version in dict(state.aliases).values():
        return None
    before = frozenset(pair for pair in state.before if pair[1] != version)
    return State(state.revision + 1, state.aliases, before, state.retired | {version})
